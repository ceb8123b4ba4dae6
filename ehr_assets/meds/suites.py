"""The Great Expectations suite of a MEDS frame, as data. Each entry becomes one Dagster check result.

It runs on the views and tables of `facts.py`. Blocking is what makes the frame wrong for whoever reads it
next: broken order hides events from point-in-time reads, an unlisted code is lost, a record that goes on long
after its death makes a survivor of the dead. What only looks odd warns: values out of range, repeated rows,
units, volume. Real extracts have some of each, and a person has to judge them.
"""

from pathlib import Path

from ehr_assets.contracts import SECTIONS
from ehr_assets.expectations import Expectation, Verdict, run_suite, workbench
from ehr_assets.fanout import Machine
from ehr_assets.meds.quality_spec import QualitySpec

COLUMN_TYPES = "column_types"
_NOT_ASKED = "Not asked: the files do not have the columns of a MEDS frame."


def validate(
    meds_dir: Path,
    quality: QualitySpec,
    machine: Machine,
    previous: Path | None = None,
    scratch: Path | None = None,
) -> list[Verdict]:
    """Validates a meds_events directory.

    Args:
        previous: the last materialization before it, if any.
        scratch: a private folder for what does not fit into memory.

    Raises:
        DatasetError: there is nothing to validate, or an expectation could not be evaluated.
    """
    from ehr_assets.meds.facts import measure

    suite = meds_suite(quality)
    with workbench(machine, scratch) as bench:
        if measure(bench, meds_dir, quality, previous):
            return run_suite(bench, suite)
        found = {v.name: v for v in run_suite(bench, [e for e in suite if e.name == COLUMN_TYPES])}
        return [found.get(e.name, Verdict(e.name, False, note=_NOT_ASKED)) for e in suite]


def meds_suite(quality: QualitySpec) -> tuple[Expectation, ...]:
    """The suite under a cohort's windows and tolerances; names and severities are the same for all."""
    return (*_of_rows(quality), *_of_subjects(quality), *_of_codes(quality), *_of_the_whole(quality))


def _of_rows(quality: QualitySpec) -> list[Expectation]:
    """What a single row can tell: one statement over the Parquet files."""
    expected: list[Expectation] = [
        _always(
            "column_types", "Every file has the columns of a MEDS frame, in their types.", "columns", "fits"
        ),
        Expectation(
            "events_not_empty",
            "There is at least one event.",
            "ExpectTableRowCountToBeBetween",
            "events",
            {"min_value": 1},
            of="events",
        ),
    ]
    for column, name in (("subject_id", "a subject"), ("code", "a code"), ("section", "a section")):
        expected.append(
            Expectation(
                f"{column}_present",
                f"Every event has {name}.",
                "ExpectColumnValuesToNotBeNull",
                "events",
                {"column": column},
                of="events",
            )
        )
    expected.append(
        Expectation(
            "section_known",
            "Every section is one of the eight of SMB-Structure, Table 1.",
            "ExpectColumnValuesToBeInSet",
            "events",
            {"column": "section", "value_set": list(SECTIONS)},
            of="events",
        )
    )
    window = quality.window
    days = window and f"{window.first or '…'} to {window.last or '…'}"
    expected += [
        _never("available_not_before_time", "Nothing is available before it happened.", "known_too_early"),
        _never(
            "availability_known",
            "Only static rows lack an available_time, and they lack a time too.",
            "half_dated",
        ),
        _never(
            "static_rows_are_demographics",
            "Only demographics are static: anything else has a time.",
            "undated",
        ),
        _never("numbers_finite", "Every numeric value is a finite number.", "not_finite"),
        _never(
            "within_extraction_window",
            f"All events but births (or {1 - quality.window_tolerance:.2%}) lie in the extraction window"
            + (f" ({days})." if days else "."),
            "outside_window",
            mostly=1 - quality.window_tolerance,
            skip="" if window else "The cohort declares no extraction window (quality.window).",
        ),
    ]
    return expected


def _of_subjects(quality: QualitySpec) -> list[Expectation]:
    return [
        _at_most(
            "sorted_by_subject_and_time",
            "Events are sorted by subject, then time, static rows first.",
            "files",
            "disordered",
            0,
            of="files",
            also={"events_out_of_order": "SELECT sum(disordered)::BIGINT FROM files"},
        ),
        _at_most("subject_in_one_file", "All events of a subject lie in one file.", "subjects", "files", 1),
        _at_most("one_birth_at_most", "A subject is born at most once.", "subjects", "births", 1),
        _at_most("one_death_at_most", "A subject dies at most once.", "subjects", "deaths", 1),
        _always(
            "nothing_before_birth", "No event happens before its subject's birth.", "subjects", "after_birth"
        ),
        _at_most(
            "nothing_long_after_death",
            f"Of at least {1 - quality.after_death_tolerance:.2%} of the subjects who died, the record ends "
            f"within {quality.death_grace_days} days.",
            "deaths",
            "events_after",
            0,
            of="subjects who died",
            mostly=1 - quality.after_death_tolerance,
            also={"events_after_death_and_grace": "SELECT sum(events_after)::BIGINT FROM deaths"},
        ),
        _always("subjects_have_a_split", "Every subject with events has a split.", "subjects", "has_split"),
    ]


def _of_codes(quality: QualitySpec) -> list[Expectation]:
    values = quality.values
    return [
        _always("codes_listed", "Every code stands in metadata/codes.parquet.", "codes_seen", "listed"),
        _at_most(
            "units_consistent",
            f"At most {quality.unit_tolerance:.1%} of a code's events are in other than its commonest unit.",
            "code_units",
            "other_share",
            quality.unit_tolerance,
            blocking=False,
            of="codes with a unit",
            also={"codes_with_several_units": "SELECT count(*) FROM code_units WHERE units > 1"},
            absent="The dataset does not keep the units of its events (quality/units.parquet).",
        ),
        _at_most(
            "values_in_train_range",
            f"Of at least {1 - values.codes_tolerance:.1%} of the codes, at most {values.tolerance:.1%} of "
            f"the numbers lie outside the range of train (q10 to q90, widened {values.spread:g} times).",
            "value_ranges",
            "outside_share",
            values.tolerance,
            blocking=False,
            of="codes with a range",
            mostly=1 - values.codes_tolerance,
            also={
                "numbers": "SELECT sum(numbers)::BIGINT FROM value_ranges",
                "numbers_outside": "SELECT sum(outside)::BIGINT FROM value_ranges",
                "share_outside": "SELECT sum(outside) / sum(numbers) FROM value_ranges",
            },
        ),
    ]


def _of_the_whole(quality: QualitySpec) -> list[Expectation]:
    volume = quality.volume
    return [
        _at_most(
            "few_exact_duplicates",
            f"At most {quality.duplicate_tolerance:.1%} of the events repeat the one before in every column.",
            "totals",
            "repeated_share",
            quality.duplicate_tolerance,
            blocking=False,
            of="datasets",
            also={
                "events": "SELECT events::BIGINT FROM totals",
                "repeated": "SELECT repeated::BIGINT FROM totals",
            },
        ),
        Expectation(
            "volume_like_last_time",
            f"No month has over {volume.factor:g} times the events it had in the last materialization, or "
            f"less than that part of them (months of {volume.min_events} events or more).",
            "ExpectColumnValuesToBeBetween",
            "volume",
            {"column": "ratio", "min_value": 1 / volume.factor, "max_value": volume.factor},
            blocking=False,
            of="months",
            also={
                "months_collapsed": f"SELECT count(*) FROM volume WHERE ratio < 1 / {volume.factor}",
                "months_exploded": f"SELECT count(*) FROM volume WHERE ratio > {volume.factor}",
            },
            absent="There is no earlier materialization with another content.",
        ),
    ]


def _never(name: str, description: str, flag: str, *, mostly: float = 1.0, skip: str = "") -> Expectation:
    kwargs = {"column": flag, "mostly": mostly}
    kind = "ExpectColumnValuesToBeNull"
    return Expectation(name, description, kind, "events", kwargs, of="events", skip=skip)


def _always(name: str, description: str, table: str, flag: str) -> Expectation:
    of = {"columns": "columns of files", "codes_seen": "codes"}.get(table, table)
    kwargs = {"column": flag, "value_set": [True]}
    return Expectation(name, description, "ExpectColumnValuesToBeInSet", table, kwargs, of=of)


def _at_most(
    name: str,
    description: str,
    table: str,
    column: str,
    most: float,
    *,
    blocking: bool = True,
    of: str = "subjects",
    mostly: float = 1.0,
    also: dict[str, str] | None = None,
    absent: str = "",
) -> Expectation:
    kwargs = {"column": column, "max_value": most, "mostly": mostly}
    return Expectation(
        name,
        description,
        "ExpectColumnValuesToBeBetween",
        table,
        kwargs,
        blocking,
        of,
        also or {},
        absent=absent,
    )
