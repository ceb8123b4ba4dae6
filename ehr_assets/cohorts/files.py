"""The files that a spec's `file` stands for: found, opened, hashed.

Where they lie is `roots.py`; how they become text and records is `sources.py` and `readers.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

import pyarrow as pa

from ehr_assets.cohorts.patterns import ENDINGS, ending_of, file_regex, is_pattern
from ehr_assets.cohorts.roots import RawRoot, unreachable
from ehr_assets.errors import MissingTableError, RawTableError
from ehr_assets.specs import closest

_CHUNK = 4 << 20
_PACKED = 8  # how much larger text is than its gzip, or than Parquet


@dataclass(frozen=True)
class RawFile:
    """One file of a raw table.

    Args:
        path: relative to the root.
        bytes: its size.
        columns: what its path says, by the names in the spec's `file`.
    """

    root: RawRoot
    path: str
    bytes: int
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return self.root.where(self.path)

    @property
    def ending(self) -> str:
        return ending_of(self.path)

    @property
    def text_bytes(self) -> int:
        """About how large its text is."""
        return self.bytes * (_PACKED if self.path.endswith((".gz", ".parquet")) else 1)

    def open(self) -> pa.NativeFile:
        return self.root.open(self.path)

    def changed(self) -> int | None:
        """When it was last written, in ns; None where that is not known."""
        return self.root.changed(self.path)

    def sha256(self) -> str:
        """The hash of its bytes; RawTableError if they cannot be read."""
        digest = hashlib.sha256()
        try:
            with self.open() as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
        except OSError as e:
            raise unreachable(self.where, e) from None
        return digest.hexdigest()


def find_files(root: RawRoot, file: str) -> list[RawFile]:
    """The files that a spec's `file` stands for, sorted by path; empty if there are none.

    Raises:
        RawTableError: a file is there twice, such as labs.csv and labs.csv.gz; a link leads out of the root;
            or that cannot be read.
    """
    found = _found(root, file)
    for raw in found:
        root.refuse_link_out(raw.path)
    stems = sorted((path.removesuffix(ending_of(path)), path) for path in (f.path for f in found))
    if twice := next(((one, two) for (a, one), (b, two) in pairwise(stems) if a == b), None):
        raise RawTableError(
            f"A raw table is there twice: {twice[0]} and {twice[1]}.",
            where=root.where(_fixed_folder(file)),
            do="Keep one of them, or give `file:` with its ending.",
        )
    return found


def _found(root: RawRoot, file: str) -> list[RawFile]:
    if is_pattern(file):
        regex, folder = file_regex(file), _fixed_folder(file)
        found = root.sizes(folder, recursive="/" in file[len(folder) :].lstrip("/") or "**" in file)
        matches = ((path, size, regex.fullmatch(path)) for path, size in found.items())
        return [
            RawFile(root, path, size, m.groupdict()) for path, size, m in matches if m and _is_table(path)
        ]
    for spelled in _spellings(file):
        sizes = {path: root.size(path) for path in candidates(spelled)}
        if there := [RawFile(root, path, size) for path, size in sizes.items() if size is not None]:
            return there
    # labs/part-0.csv, and labs.csv/part-0.csv as Spark writes it
    for folder in [f for spelled in _spellings(file) for f in (spelled, *candidates(spelled))]:
        inside = root.sizes(folder, recursive=True)
        parts = [path for path in inside if path.endswith(ENDINGS) and _is_table(path)]
        if parts:
            return [RawFile(root, path, inside[path]) for path in parts]
    return []


def _spellings(file: str) -> list[str]:
    """The file as the spec has it, then as databases export it: PERSON.csv, or person.csv."""
    folder, _, name = file.rpartition("/")
    names = dict.fromkeys((name, name.upper(), name.lower()))
    return [f"{folder}/{n}" if folder else n for n in names]


def require_files(root: RawRoot, file: str, *, key: str) -> list[RawFile]:
    """As `find_files`; MissingTableError, naming what was tried, where there are none.

    Args:
        key: what in the spec asks for it.
    """
    if not root.exists():
        what = "There is nothing" if root.remote else "The directory of raw tables does not exist"
        raise MissingTableError(f"{what}.", where=root.uri, do="Check the path.")
    found = find_files(root, file)
    if found:
        return found
    folder = _fixed_folder(file)
    tried = file if is_pattern(file) else ", ".join(PurePosixPath(p).name for p in candidates(file))
    stems = {PurePosixPath(p).name.split(".")[0] for p in root.sizes(folder)}
    near = "" if is_pattern(file) else closest(PurePosixPath(file).name, stems)
    raise MissingTableError(
        f"A raw table is missing: {file} ({key}).{near}",
        where=f"{root.where(folder)} (tried {tried})",
        do="Put the file there, correct `file:` in the cohort spec, or mark it `optional: true`.",
    )


def candidates(file: str) -> list[str]:
    """The names under which a file may lie."""
    return [file] if file.endswith(ENDINGS) else [f"{file}{ending}" for ending in ENDINGS]


def _fixed_folder(file: str) -> str:
    """The folder that comes before the first part with a placeholder."""
    parts = []
    for part in file.split("/")[:-1]:
        if is_pattern(part):
            break
        parts.append(part)
    return "/".join(parts)


def _is_table(path: str) -> bool:
    # Spark and its kin leave _SUCCESS, .crc and the like beside their parts.
    return not any(part.startswith(("_", ".")) for part in path.split("/"))
