"""Secrets where they do not belong: spec files, overrides, run config and tags, which are stored and shown.

Known forms only, by key or by value. What merely looks random is let pass: hashes and ids do, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ehr_assets.errors import SpecError

_KEYS = re.compile(
    r"(.*[_.-])?(password|passwd|passphrase|secret|secret_?access_?key|secret_?key|private_?key|api_?key|"
    r"access_?key(_?id)?|account_?key|client_?secret|(auth|access|session|bearer|api)_?token)",
    re.IGNORECASE,
)
"""Keys whose value is a secret, whatever it looks like; not `max_tokens`, `tokenizer` or `person_key`."""

_VALUES = {
    "an AWS access key": re.compile(r"\b(AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}\b"),
    "an address with a password": re.compile(r"[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@]+@", re.IGNORECASE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a token": re.compile(
        r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|"
        r"xox[abprs]-[\w-]{10,}|sk-(?=[\w-]*\d)[\w-]{20,}|dapi[0-9a-f]{32}|AIza[\w-]{35}|"
        r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
    ),
    "an authorization header": re.compile(
        r"\bBearer\s+(?=\S*\d)[A-Za-z0-9+/._~-]{20,}|\bBasic\s+[A-Za-z0-9+/]{8,}={1,2}(?=\s|$)"
    ),
    "a signed address": re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|sig|AccountKey)=[^&\s]{16,}"),
    "a password in a command or a connection": re.compile(
        r"(--(password|passwd|secret|token)[= ]|\b(password|passwd|pwd|accountkey)=|"
        r"\bsshpass\s+-p)\s*[^\s;&{$]",
        re.IGNORECASE,
    ),
}
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_REFERENCE = re.compile(r"\$\{?[A-Za-z_]\w*\}?")


def refuse_secrets(
    data: Any, where: str, *, do: str = "Take it out, and give it as an environment variable (EnvVar)."
) -> None:
    """Raises SpecError where nested `data` holds something that looks like a secret.

    The error names the keys that lead there and what it looks like, never the value. Dagster's
    ``{"env": "NAME"}`` is no secret but the name of a variable.
    """
    found = list(_secrets(data, ()))
    if found:
        keys = "; ".join(f"{'.'.join(path) or 'the value'} looks like {what}" for path, what in found)
        raise SpecError(f"A secret does not belong here: {keys}.", where=where, do=do)


def _secrets(data: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(data, Mapping):
        if set(data) == {"env"} and isinstance(data["env"], str) and _VARIABLE.fullmatch(data["env"]):
            return
        for key, value in data.items():
            if what := _what(str(key)):
                yield (*path, "a key"), what  # the key itself is one: it is not named
            else:
                yield from _secrets(value, (*path, str(key)))
    elif isinstance(data, str):
        if path and _KEYS.fullmatch(path[-1].rsplit(".", 1)[-1]) and _is_literal(data):
            yield path, "the value of such a key"
        elif what := _what(data):
            yield path, what
    elif isinstance(data, Iterable) and not isinstance(data, bytes):
        for i, item in enumerate(data):
            yield from _secrets(item, (*path, str(i)))


def _is_literal(text: str) -> bool:
    """Neither nothing nor the name of a variable."""
    return bool(text) and not _REFERENCE.fullmatch(text)


def _what(text: str) -> str | None:
    return next((what for what, form in _VALUES.items() if form.search(text)), None)
