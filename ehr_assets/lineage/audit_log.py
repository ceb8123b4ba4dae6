"""The audit log of an installation: what was done, by whom, when; each line hashed with the one before it.

<home>/audit/log.jsonl   a line per act, appended to and never rewritten
<home>/audit/head.json   sequence and hash of the newest line, so that a removed tail is noticed
<home>/audit/lock        taken by whoever writes

Whoever may write to these files can rewrite all of them from the first line on, and no hash chain shows that.
A head noted elsewhere does: `verify` compares with it. Facts are names, versions and counts; never a raw
value or a subject id.
"""

import contextlib
import fcntl
import getpass
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from ehr_assets.errors import EhrError

Fact = str | int | float | bool | None | Sequence[str]

TORN = "torn_line"
ACTIONS = (
    "run_started",
    "run_finished",
    "check_failed",
    "check_overridden",
    "promoted",
    "rolled_back",
    "collected",
    "exported",
    "looked_up",
    "reproduced",
    TORN,
)
BEGINNING = "0" * 64
"""What the first line has for the hash of the line before."""


class AuditLogError(EhrError):
    """An audit log that cannot be read or written."""


@dataclass(frozen=True)
class Entry:
    """One act. `line`: its place in the file, from 1; `hash` covers all else but the line."""

    line: int
    sequence: int
    time: str
    by: str
    action: str
    facts: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class Head:
    """The newest line; `end` is the length of the file with it, in bytes."""

    sequence: int = 0
    hash: str = BEGINNING
    end: int = 0


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes:
        entries: acts read up to the first fault.
        head: ``sequence:hash`` of the last of them: to be noted elsewhere, for the next time.
        fault: what is wrong with the first bad line; None if nothing is.
        line: which line of the file that is.
        notes: what is no fault, but to be known.
    """

    entries: int
    head: str
    fault: str | None = None
    line: int | None = None
    notes: list[str] = field(default_factory=list)


class AuditLog:
    """The log under a storage root.

    Args:
        home: the storage root; the log's folder is made there when first written to, for its owner alone.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "audit"
        self.path = self.folder / "log.jsonl"
        self._head_path = self.folder / "head.json"

    def append(self, action: str, facts: Mapping[str, Fact]) -> Entry:
        """Adds a line, on the disk when this returns. Safe against other processes of this machine.

        A line that a crash left half-written is closed off and told by a line of its own before this one.
        After anything else that is wrong the chain goes on from the head: `verify` finds the break for ever.

        Raises:
            ValueError: no such action.
            AuditLogError: the log cannot be written.
        """
        if action not in ACTIONS:
            raise ValueError(f"'{action}' is not one of: {', '.join(ACTIONS)}")
        try:
            with self._writing() as file:
                head, torn = self._tail(file)
                if torn is not None:
                    if not torn.endswith(b"\n"):
                        _write(file, b"\n")
                    told = {"bytes": len(torn.rstrip(b"\n")), "sha256": _sha256(torn.rstrip(b"\n"))}
                    head, _ = self._add(file, head, TORN, told)
                return self._add(file, head, action, facts)[1]
        except OSError as e:
            raise AuditLogError(
                f"The audit log cannot be written: {e.strerror}.",
                where=str(self.path),
                do="Free space or mend its permissions, then run again.",
            ) from e

    def entries(self) -> Iterator[Entry]:
        """The acts that can be read, oldest first; whether they are the true ones, `verify` says."""
        for number, data in enumerate(self._lines(), 1):
            if entry := _parsed(number, data):
                yield entry

    def verify(self, noted: str | None = None) -> Verdict:
        """Recomputes the chain: the first line that was edited, removed, reordered or inserted, if any was.

        Args:
            noted: a head noted earlier, ``sequence:hash``, which must still stand in the log.

        Raises:
            AuditLogError: the log or its head cannot be read.
        """
        lines, head = self._at_rest()
        seen = {e.hash: e.line for n, data in enumerate(lines, 1) if (e := _parsed(n, data))}
        last, hashes, notes = Head(), {0: BEGINNING}, []
        torn: list[bytes] = []
        entry = None

        def found(fault: str | None = None, line: int | None = None) -> Verdict:
            return Verdict(last.sequence, f"{last.sequence}:{last.hash}", fault, line, notes)

        for number, data in enumerate(lines, 1):
            entry = _parsed(number, data)
            if entry is None:
                torn.append(data)
                continue
            if torn:
                first = number - len(torn)
                if entry.action != TORN or entry.facts.get("sha256") != _sha256(b"\n".join(torn)):
                    return found("This line was edited: it cannot be read.", first)
                notes.append(f"Line {first} was half-written when its process died; line {number} tells.")
                torn = []
            if fault := _fault(entry, last, seen) or _written_otherwise(entry, data):
                return found(fault, number)
            last = Head(entry.sequence, entry.hash)
            hashes[last.sequence] = last.hash
        if head is None and last.sequence:
            return found("The head is gone: lines after this one may be, too.", len(lines))
        if head and head.hash != last.hash:
            if not (entry and entry.previous == head.hash and entry.sequence == head.sequence + 1):
                return found(
                    f"The head is line {head.sequence} of the chain: what followed this line was removed, or "
                    "this line was edited.",
                    len(lines) or None,
                )
            notes.append("The head is one line behind: its writer died just before it was brought up.")
        if torn:
            first = len(lines) - len(torn) + 1
            notes.append(f"Line {first} is half-written: its process died. The next line will tell it.")
        if noted and not _stands(noted, hashes):
            return found("The noted head is not in this log: it was rewritten, or cut before it.", None)
        return found()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
            try:
                yield file
            finally:
                os.close(file)
        finally:
            os.close(lock)

    def _at_rest(self) -> tuple[list[bytes], Head | None]:
        """Lines and head of one moment: a line written in between would look like one that was removed."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDONLY)
        except OSError:  # never written to, or a copy: nobody writes
            return self._lines(), self._head()
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return self._lines(), self._head()
        finally:
            os.close(lock)

    def _tail(self, file: int) -> tuple[Head, bytes | None]:
        """Where the chain goes on, and the half-written line behind that, if there is one."""
        head = self._head() or Head()
        if os.fstat(file).st_size == head.end:
            return head, None
        lines = self.path.read_bytes().splitlines(keepends=True)
        parsed = [_parsed(n, data) for n, data in enumerate(lines, 1)]
        at = next((n for n in reversed(range(len(parsed))) if (e := parsed[n]) and e.hash == head.hash), None)
        rest = lines if at is None and not head.sequence else lines[at + 1 :] if at is not None else []
        # A line that was written whole, by a process that died before it could bring the head up.
        entry = _parsed(0, rest[0]) if rest and rest[0].endswith(b"\n") else None
        if entry and not _fault(entry, head, {}):
            head, rest = Head(entry.sequence, entry.hash), rest[1:]
        if rest and not any(_parsed(0, data) for data in rest):  # several, if telling it crashed as well
            return head, b"".join(rest)
        if lines and not lines[-1].endswith(b"\n"):
            _write(file, b"\n")  # what is wrong stays wrong, on a line of its own
        return head, None

    def _add(self, file: int, head: Head, action: str, facts: Mapping[str, Fact]) -> tuple[Head, Entry]:
        content = {
            "sequence": head.sequence + 1,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "by": _who(),
            "action": action,
            "facts": {k: v if isinstance(v, str | int | float | None) else list(v) for k, v in facts.items()},
            "previous": head.hash,
        }
        own = _hash(content)
        _write(file, _json({**content, "hash": own}) + b"\n")
        head = Head(head.sequence + 1, own, os.fstat(file).st_size)
        fresh = self._head_path.with_suffix(".new")
        handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            _write(handle, _json(vars(head)))
        finally:
            os.close(handle)
        fresh.rename(self._head_path)
        return head, Entry(line=0, hash=own, **content)

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as e:
            raise AuditLogError(
                f"The audit log cannot be read: {e.strerror}.",
                where=str(self.path),
                do="Read it as its owner: it is private.",
            ) from e

    def _head(self) -> Head | None:
        try:
            return Head(**json.loads(self._head_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            raise AuditLogError(
                "The head of the audit log cannot be read.",
                where=str(self._head_path),
                do="Keep a copy of the folder for whoever looks into it. Then take the file away: the log "
                "goes on, and `ehr audit verify` shows the break.",
            ) from e


def _fault(entry: Entry, last: Head, seen: Mapping[str, int]) -> str | None:
    """Why this line cannot be the one after `last`; None if it can."""
    content = {k: v for k, v in vars(entry).items() if k not in ("line", "hash")}
    if _hash(content) != entry.hash:
        return "This line was edited: its content does not give its hash."
    if entry.previous == last.hash and entry.sequence == last.sequence + 1:
        return None
    if entry.sequence <= last.sequence:
        return f"This line was inserted, or stood elsewhere: it is number {entry.sequence} of the chain."
    if seen.get(entry.previous, 0) > entry.line:
        return "This line stands before the one that it followed: lines were reordered."
    if entry.sequence > last.sequence + 1:
        return f"Lines were removed before this one: numbers {last.sequence + 1} to {entry.sequence - 1}."
    return "This line does not follow the one before, which was edited, or this one was put in its place."


def _written_otherwise(entry: Entry, data: bytes) -> str | None:
    """Bytes that are read as the same line, but are others: a field given twice shows a reader the first."""
    if _json({k: v for k, v in vars(entry).items() if k != "line"}) == data:
        return None
    return "This line was edited: it says the same, but is not written as this log writes."


def _stands(noted: str, hashes: Mapping[int, str]) -> bool:
    sequence, _, value = noted.strip().partition(":")
    return sequence.isdecimal() and hashes.get(int(sequence)) == value


def _parsed(number: int, data: bytes) -> Entry | None:
    """None where it is no line of this log."""
    try:
        found = Entry(line=number, **json.loads(data))
    except (ValueError, TypeError):
        return None
    kinds = (found.sequence, int), (found.facts, dict), (found.action, str), (found.previous, str)
    return found if all(isinstance(value, kind) for value, kind in kinds) else None


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in many containers
        return f"uid {os.getuid()}"


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hash(content: Mapping[str, Any]) -> str:
    return _sha256(_json(content))


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()


def _write(file: int, data: bytes) -> None:
    """All of it, and on the disk."""
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)
