"""Great Expectations suites of this room, as data. Each entry becomes one Dagster check result.

Views: `events` (all shards, with filename and file_row_number), `codes`, `splits`.
"""

from ehr_assets.contracts import SECTIONS
from ehr_assets.meds.expectations import Expectation, no_rows

_SECTION_LIST = ", ".join(f"'{s}'" for s in SECTIONS)

MEDS_EVENTS: tuple[Expectation, ...] = (
    Expectation(
        "subject_id_present",
        "Every event belongs to a subject.",
        "ExpectColumnValuesToNotBeNull",
        "events",
        {"column": "subject_id"},
    ),
    Expectation(
        "code_present",
        "Every event has a code.",
        "ExpectColumnValuesToNotBeNull",
        "events",
        {"column": "code"},
    ),
    Expectation(
        "section_present",
        "Every event has a section.",
        "ExpectColumnValuesToNotBeNull",
        "events",
        {"column": "section"},
    ),
    Expectation(
        "events_not_empty",
        "There is at least one event.",
        "ExpectTableRowCountToBeBetween",
        "events",
        {"min_value": 1},
    ),
    no_rows(
        "section_known",
        "Every section is one of the eight of SMB-Structure, Table 1.",
        "events",
        f"SELECT section FROM {{batch}} WHERE section NOT IN ({_SECTION_LIST})",
    ),
    no_rows(
        "available_not_before_time",
        "Nothing is available before it happened.",
        "events",
        "SELECT code FROM {batch} WHERE available_time < time",
    ),
    no_rows(
        "availability_known",
        "Only static rows lack an available_time, and they lack a time too.",
        "events",
        "SELECT code FROM {batch} WHERE (time IS NULL) <> (available_time IS NULL)",
    ),
    no_rows(
        "static_rows_are_demographics",
        "Only demographics are static: anything else has a time.",
        "events",
        "SELECT code FROM {batch} WHERE time IS NULL AND section <> 'demographics'",
    ),
    no_rows(
        "sorted_by_subject_and_time",
        "Events are sorted by subject, then time, static rows first.",
        "events",
        "SELECT subject_id FROM (SELECT subject_id, time, "
        "lag(subject_id) OVER w AS last_subject, lag(time) OVER w AS last_time "
        "FROM {batch} WINDOW w AS (PARTITION BY filename ORDER BY file_row_number)) "
        "WHERE last_subject > subject_id OR (last_subject = subject_id AND "
        "(last_time > time OR (last_time IS NOT NULL AND time IS NULL)))",
    ),
    no_rows(
        "subject_in_one_file",
        "All events of a subject lie in one file.",
        "events",
        "SELECT subject_id FROM {batch} GROUP BY subject_id HAVING count(DISTINCT filename) > 1",
    ),
    no_rows(
        "one_birth_at_most",
        "A subject is born at most once.",
        "events",
        "SELECT subject_id FROM {batch} WHERE code = 'MEDS_BIRTH' GROUP BY subject_id HAVING count(*) > 1",
    ),
    no_rows(
        "one_death_at_most",
        "A subject dies at most once.",
        "events",
        "SELECT subject_id FROM {batch} WHERE code = 'MEDS_DEATH' GROUP BY subject_id HAVING count(*) > 1",
    ),
    no_rows(
        "nothing_before_birth",
        "No event happens before its subject's birth.",
        "events",
        "SELECT subject_id FROM (SELECT subject_id, min(time) AS first, "
        "min(time) FILTER (WHERE code = 'MEDS_BIRTH') AS birth FROM {batch} GROUP BY subject_id) "
        "WHERE first < birth",
    ),
    no_rows(
        "codes_listed",
        "Every code stands in metadata/codes.parquet.",
        "events",
        "SELECT DISTINCT code FROM {batch} WHERE code NOT IN (SELECT code FROM codes)",
    ),
    no_rows(
        "subjects_have_a_split",
        "Every subject with events has a split.",
        "events",
        "SELECT DISTINCT subject_id FROM {batch} WHERE subject_id NOT IN (SELECT subject_id FROM splits)",
    ),
)
