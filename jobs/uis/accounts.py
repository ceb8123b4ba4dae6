"""Who may come in: files of names and hashed passwords, one for engineers and one for auditors."""

import os
import warnings
from pathlib import Path

from ehr_assets.errors import SpecError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in Python 3.13; this project is held to 3.11
    import crypt

GROUPS = ("engineers", "auditors")
SHORTEST = 12


def accounts_file(folder: Path, group: str) -> Path:
    """Where a group's accounts lie. SpecError for a group that there is not."""
    if group not in GROUPS:
        raise SpecError(
            f"There is no group '{group}'.", where="GROUP", do=f"Use one of: {', '.join(GROUPS)}."
        )
    return folder / f"{group}.htpasswd"


def set_account(folder: Path, group: str, name: str, password: str) -> None:
    """Adds an account, or gives one another password. The file is readable by its owner alone.

    Raises:
        SpecError: no such group, a name that the file cannot hold, a short password.
    """
    file = accounts_file(folder, group)
    if not name or not name.isprintable() or set(name) & set(": #"):
        raise SpecError(
            "This cannot be the name of an account.",
            where="NAME",
            do="Use letters, digits, '.', '-' and '_'.",
        )
    if len(password) < SHORTEST:
        raise SpecError(
            f"The password has fewer than {SHORTEST} characters.",
            where=f"account {name}",
            do="Use a longer one.",
        )
    others = [line for line in _lines(file) if line.partition(":")[0] != name]
    hashed = crypt.crypt(password, crypt.mksalt(crypt.METHOD_SHA512))
    _write(file, [*others, f"{name}:{hashed}"])


def remove_account(folder: Path, group: str, name: str) -> None:
    """Takes an account away: at the next request nginx asks it for a password that it no longer has.

    Raises:
        SpecError: no such group or account.
    """
    file = accounts_file(folder, group)
    kept = [line for line in _lines(file) if line.partition(":")[0] != name]
    if len(kept) == len(_lines(file)):
        raise SpecError(f"There is no account '{name}' among the {group}.", where=str(file))
    _write(file, kept)


def names(folder: Path, group: str) -> list[str]:
    """The names of a group's accounts."""
    return [line.partition(":")[0] for line in _lines(accounts_file(folder, group))]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _write(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.writelines(f"{line}\n" for line in lines)
    aside.replace(file)
