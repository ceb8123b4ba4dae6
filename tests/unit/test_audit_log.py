"""The audit log: whatever is done to its lines is found, and what a crash does to them is told."""

import fcntl
import json
import multiprocessing
import stat

import pytest

from ehr_assets.lineage.audit_log import AuditLog, AuditLogError


@pytest.fixture
def log(tmp_path):
    made = AuditLog(tmp_path)
    for n in range(6):
        made.append("run_started", {"run": f"run-{n}", "assets": ["a/b", "a/c"], "n": n})
    return made


def rewrite(log, change):
    lines = log.path.read_bytes().splitlines(keepends=True)
    change(lines)
    log.path.write_bytes(b"".join(lines))


def edited(lines, n, rehash=False):
    """Line n with another fact; with a hash to match, as by someone who knows how it is made."""
    from ehr_assets.lineage import audit_log

    row = json.loads(lines[n])
    row["facts"]["run"] = "another"
    if rehash:
        row["hash"] = audit_log._hash({k: v for k, v in row.items() if k != "hash"})
    lines[n] = audit_log._json(row) + b"\n"


def test_lines_follow_each_other_and_are_private(log):
    verdict = log.verify()
    assert (verdict.fault, verdict.entries, verdict.notes) == (None, 6, [])
    acts = list(log.entries())
    assert [e.sequence for e in acts] == [1, 2, 3, 4, 5, 6]
    assert acts[3].facts == {"run": "run-3", "assets": ["a/b", "a/c"], "n": 3}
    assert acts[0].by
    assert verdict.head == f"6:{acts[-1].hash}"
    for path in (log.path, log.folder / "head.json", log.folder / "lock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (lambda lines: edited(lines, 2), 3, "edited"),
        (lambda lines: edited(lines, 2, rehash=True), 4, "the one before, which was edited"),
        (lambda lines: edited(lines, 5, rehash=True), 6, "this line was edited"),
        (lambda lines: lines.__setitem__(2, b"nonsense\n"), 3, "edited"),
        (lambda lines: lines.__setitem__(2, b'{"by":"another",' + lines[2][1:]), 3, "edited"),
        (lambda lines: lines.__setitem__(2, lines[2].replace(b":", b": ", 1)), 3, "edited"),
        (
            lambda lines: lines.__setitem__(2, lines[2].replace(b'"sequence":3', b'"sequence":"3"')),
            3,
            "edited",
        ),
        (lambda lines: lines.pop(2), 3, "removed before this one: numbers 3 to 3"),
        (lambda lines: lines.pop(0), 1, "removed before this one: numbers 1 to 1"),
        (lambda lines: lines.pop(), 5, "removed"),
        (lambda lines: lines.__delitem__(slice(3, None)), 3, "removed"),
        (lambda lines: lines.clear(), None, "removed"),
        (lambda lines: lines.insert(4, lines[1]), 5, "inserted"),
        (lambda lines: lines.insert(2, lines.pop(3)), 3, "reordered"),
        (lambda lines: lines.insert(0, lines.pop()), 1, "reordered"),
        (lambda lines: lines.__setitem__(5, lines[5][:40]), 6, "removed"),
    ],
)
def test_whatever_was_done_is_found_and_stays_found(log, change, line, says):
    rewrite(log, change)
    for _ in range(2):
        verdict = log.verify()
        assert verdict.fault
        if says:
            assert says in verdict.fault
            assert verdict.line == line
        log.append("run_finished", {"run": "x"})  # work goes on; the break stays where it is
        line, says = None, None


def test_a_line_torn_by_a_crash_is_closed_off_and_told(log):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"action":"run_fin')
    before = log.verify()
    assert before.fault is None
    assert "Line 7 is half-written" in before.notes[0]
    log.append("run_finished", {"run": "run-5"})
    assert log.path.read_bytes().startswith(whole), "nothing was rewritten"
    verdict = log.verify()
    assert verdict.fault is None
    assert "line 8 tells" in verdict.notes[0]
    assert [e.action for e in log.entries()][-2:] == ["torn_line", "run_finished"]
    # A crash while telling it is told in the same way.
    with log.path.open("ab") as file:
        file.write(b'{"action":\n{"act')
    log.append("run_finished", {"run": "run-5"})
    assert log.verify().fault is None
    # What is told is the very fragment: another one in its place is an edit.
    rewrite(log, lambda lines: lines.__setitem__(6, b'{"action":"promo\n'))
    assert log.verify().line == 7


def test_a_crash_between_the_line_and_the_head(log):
    head = (log.folder / "head.json").read_bytes()
    log.append("promoted", {"model": "m"})
    (log.folder / "head.json").write_bytes(head)
    assert log.verify().fault is None
    assert "one line behind" in log.verify().notes[0]
    log.append("run_finished", {"run": "x"})
    assert (log.verify().fault, log.verify().entries) == (None, 8)


def test_a_line_written_meanwhile_is_no_removed_one(log, monkeypatch):
    read = AuditLog._lines

    def then_another_writes(self):
        found = read(self)
        with pytest.raises(BlockingIOError), log.path.with_name("lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return found

    monkeypatch.setattr(AuditLog, "_lines", then_another_writes)
    assert log.verify().fault is None


def test_a_log_begun_anew_is_found_by_the_head_that_was_noted(log, tmp_path):
    noted = log.verify().head
    log.append("collected", {"datasets": 3})
    assert log.verify(noted).fault is None
    for path in (log.path, log.folder / "head.json"):
        path.unlink()
    log.append("run_started", {"run": "other"})
    assert log.verify().fault is None, "this is what a chain alone cannot show"
    assert "noted head" in (log.verify(noted).fault or "")


def test_the_head_taken_away(log):
    (log.folder / "head.json").unlink()
    assert "head is gone" in (log.verify().fault or "")
    log.append("run_finished", {"run": "x"})
    assert log.verify().fault


def test_refused(log, tmp_path):
    with pytest.raises(ValueError, match="not one of"):
        log.append("deleted_everything", {})
    (log.folder / "head.json").write_text("{", encoding="utf-8")
    with pytest.raises(AuditLogError, match="head"):
        log.append("run_started", {"run": "x"})
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(AuditLogError, match="cannot be written"):
        AuditLog(blocked).append("run_started", {"run": "x"})


def _write_many(home, who):
    for n in range(25):
        AuditLog(home).append("run_started", {"run": f"{who}-{n}"})


def test_many_writers_make_one_chain(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, who)) for who in range(3)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(120)
    assert [w.exitcode for w in writers] == [0, 0, 0]
    verdict = AuditLog(tmp_path).verify()
    assert (verdict.fault, verdict.entries) == (None, 75)
    assert len({e.facts["run"] for e in AuditLog(tmp_path).entries()}) == 75
