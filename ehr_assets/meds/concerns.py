"""What in a preview deserves a second look: said in words, without a raw value or a subject id.

Nothing here keeps a cohort from running; what does is among the preview's problems.
"""

import re
from collections.abc import Iterator

from ehr_assets.cohorts.event_spec import EventSpec, SectionRules
from ehr_assets.cohorts.spec import MedsSource
from ehr_assets.contracts import BIRTH, DEATH
from ehr_assets.meds.preview import EventPreview, Preview, TablePreview
from ehr_assets.meds.problems import DUPLICATE_SUBJECT, NO_CODE, UNKNOWN_SUBJECT

_CODED_LATE = ("conditions", "procedures")
_FEW = 50  # rows from which on a share means something
_EARLY, _UNIQUE, _NULL_CODES, _MISSED = 0.05, 0.8, 0.05, 0.5
_LISTED = 12


def concerns(preview: Preview) -> dict[str, list[str]]:
    """Warnings by table name, in the order of the tables; those of the cohort as a whole under ""."""
    found = {t.spec.name: list(_of_table(t, preview)) for t in preview.tables}
    return {"": list(_of_cohort(preview)), **found}


def _of_cohort(preview: Preview) -> Iterator[str]:
    spec, roster = preview.spec, preview.roster
    if roster and spec.subjects.one_row_each and (twice := roster.rows - roster.no_id - roster.subjects):
        yield (
            f"the roster '{spec.subjects.table}' has {twice:,} further rows of subjects that it already has: "
            "they will be quarantined. If it is meant to have several rows per subject, say "
            "`one_row_each: false` under `subjects`"
        )
    if roster and roster.no_id:
        yield (
            f"{roster.no_id:,} of {roster.rows:,} rows of the roster have no readable id"
            + ("" if spec.subjects.ids == "text" else "; ids that are no whole numbers need `ids: text`")
        )
    if roster and not roster.subjects:
        yield "the roster names nobody: the cohort is empty"
    if roster and not roster.whole:
        yield f"of the roster only {roster.rows:,} rows were read: unknown subjects were not looked for"
    events = [e for t in spec.tables for e in t.events]
    for code, what in ((BIRTH, "birth"), (DEATH, "death")):
        if not any(_may_be(e, code) for e in events):
            yield f"no event makes {code}: without the {what} of a subject, ages or survival cannot be used"
    yield from _triggers(preview)
    if preview.unused:
        more = f" and {len(preview.unused) - _LISTED} more" if len(preview.unused) > _LISTED else ""
        yield f"tables that the spec does not read: {', '.join(preview.unused[:_LISTED])}{more}"


def _may_be(event: EventSpec, code: str) -> bool:
    return event.code == code or event.code.startswith("{")


def _triggers(preview: Preview) -> Iterator[str]:
    """Decision nodes whose codes nothing in the samples has."""
    nodes = preview.spec.decision_nodes
    codes = {c for t in preview.tables for e in t.events for c in e.events["code"].unique()}
    for trigger in nodes.triggers if nodes else []:
        if codes and not any(re.search(p, c) for p in trigger.codes for c in codes):
            yield (
                f"trigger '{trigger.name}': none of its codes occurs in the sample; "
                "they may be rare, or misspelt"
            )


def _of_table(table: TablePreview, preview: Preview) -> Iterator[str]:
    if table.problems:
        return
    if table.absent:
        yield "absent (it is optional): it makes no events"
        return
    if not table.read:
        yield "no records"
        return
    roster = preview.roster
    rows = {reason: 0 for _, reason in table.reasons}
    for (_, reason), n in table.reasons.items():
        rows[reason] += n
    if unknown := rows.get(UNKNOWN_SUBJECT):
        whom = f"the {roster.subjects:,} subjects of the roster" if roster else "the roster"
        yield f"{_share(unknown, table.read)} of the rows are of subjects who are not among {whom}"
    others = table.quarantined - rows.get(DUPLICATE_SUBJECT, 0)
    if others > preview.spec.quarantine_threshold * table.read:
        yield (
            f"{_share(others, table.read)} of the rows would be quarantined; above "
            f"{preview.spec.quarantine_threshold:.1%} of the cohort (quarantine_threshold) it is refused"
        )
    for column in sorted({c for (c, reason) in table.reasons if reason == NO_CODE}):
        n = table.reasons[column, NO_CODE]
        if n > _NULL_CODES * table.read:
            yield f"no code in {_share(n, table.read)} of the rows: `{column}` is empty there"
    for join in table.joins:
        if join.absent:
            yield f"join of {join.file}: absent (it is optional); its columns are null"
        elif join.asked and join.found < _MISSED * join.asked:
            part = "" if join.whole else f" (of which only the first {join.rows:,} rows were read)"
            missed = _share(join.asked - join.found, join.asked)
            yield f"join of {join.file}: found nothing{part} for {missed} of the rows"
    yield from _late(table)
    for event in table.events:
        # The tables of a MEDS dataset are not written by hand: they hold an event for every section.
        if event.events.height or not isinstance(preview.spec.source, MedsSource):
            yield from _of_event(event, table)


def _late(table: TablePreview) -> Iterator[str]:
    """Events of which it is doubtful that they were known when they happened."""
    silent = [
        e for e in table.spec.events if not e.static and not e.available and e.code not in (BIRTH, DEATH)
    ]
    for sections, why in (
        (_CODED_LATE, "when was it coded? Codes for billing are known at discharge, not before"),
        (("measurements",), "was it known when it was drawn? Results are known when they are filed"),
        (("notes",), "was it filed when it was begun?"),
    ):
        codes = [e.code for e in silent if any(s in sections for s in _sections(e))]
        if codes:
            several = f" and {len(codes) - 1} more" if len(codes) > 1 else ""
            yield f"`{codes[0]}`{several} without `available`: {why}"


def _sections(event: EventSpec) -> list[str]:
    section = event.section
    return [*section.rules.values(), section.default] if isinstance(section, SectionRules) else [section]


def _of_event(event: EventPreview, table: TablePreview) -> Iterator[str]:
    code, made = f"`{event.spec.code}`", event.events.height
    if not made:
        if table.accepted:
            yield f"{code}: no row of the sample makes it"
        return
    if event.timed >= _FEW and _always_midnight(event):
        yield (
            f"{code}: the time is always midnight: if only the day is known, say `kind: date` or "
            "`midnight_is_day: true`, else it counts as known from its first second on"
        )
    if event.told >= _FEW and event.early > _EARLY * event.told:
        yield (
            f"{code}: `available` is before `time` in {_share(event.early, event.told)} of the rows (there "
            "it is ignored): do the columns mean what they are taken for?"
        )
    distinct = event.events["code"].n_unique()
    if "{" in event.spec.code and made >= _FEW and distinct > _UNIQUE * made:
        yield (
            f"{code}: {distinct:,} different codes in {made:,} events: is there an id, a number or free text "
            "in the code? Put it into a value, or leave it out"
        )


def _always_midnight(event: EventPreview) -> bool:
    ways = [w for t in event.spec.time or [] for w in t.steps()]
    if any(w.year or w.elapsed or w.fixed for w in ways):
        return False
    times = event.events["time"].drop_nulls()
    return bool((times == times.dt.truncate("1d")).all()) if times.len() else False


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"
