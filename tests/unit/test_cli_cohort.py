"""`ehr cohort check`: what it shows of a cohort file and its tables, and what it warns of."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from cohorts_support import LABS, PEOPLE, SPEC, tiny, write_tables
from typer.testing import CliRunner

from ehr_assets.cohorts import csv_files
from ehr_assets.meds import samples
from ehr_assets.meds.concerns import concerns
from ehr_assets.meds.preview import preview_cohort
from jobs.cli.cohort import app

LAB = SPEC["tables"][1]["events"][0]
ROWS = "".join(f"{i % 3 + 1},{50 + i % 2},mg,2020-01-{i % 28 + 1:02d} 10:00:00,,{i},\n" for i in range(90))
FOLK = "1,F,1950,\n2,M,1960,2020-03-05\n3,F,1970,\n"


def lab(changes: dict[str, Any] | None = None, **table: Any):
    """The tiny cohort with another lab event and lab table; None removes a key."""
    event = {k: v for k, v in {**LAB, **(changes or {})}.items() if v is not None}
    return tiny(tables=[SPEC["tables"][0], {**SPEC["tables"][1], "events": [event], **table}])


@pytest.fixture
def folder(tmp_path):
    def write(labs: str = ROWS, people: str = FOLK) -> Path:
        return write_tables(tmp_path / "raw", PEOPLE + people, LABS + labs)

    return write


def table_of(found, name="labs"):
    return next(t for t in found.tables if t.spec.name == name)


def test_the_first_events_with_their_units_and_sections(folder):
    root = folder("1,50,mg,2020-01-01 10:00:00,2020-01-01 11:00:00,1.5,\n9,50,mg,2020-01-01,,1,\n1,50\n")
    (root / "items.csv").write_text("item,name\n50,Sodium\n")
    found = preview_cohort(tiny(), root)
    labs = table_of(found)
    assert (labs.read, labs.accepted, labs.quarantined) == (3, 1, 2)
    assert labs.reasons == {("pid", "unknown subject"): 1, ("", "wrong number of fields"): 1}
    event = labs.events[0].events.to_dicts()[0]
    assert str(event.pop("time")) == "2020-01-01 10:00:00"
    assert str(event.pop("available_time")) == "2020-01-01 11:00:00"
    assert event == {
        "code": "LAB//50//mg",
        "numeric_value": 1.5,
        "text_value": None,
        "unit": "mg",
        "section": "measurements",
    }
    join = labs.joins[0]
    assert (join.asked, join.found, join.rows, join.whole) == (2, 2, 1, True)
    assert found.roster
    assert (found.roster.rows, found.roster.subjects) == (3, 3)


def test_all_problems_of_all_tables_are_told_at_once(folder):
    spec = tiny(
        tables=[
            {
                **SPEC["tables"][0],
                "events": [{"code": "X//{sexx}", "static": True, "section": "demographics"}],
            },
            {**SPEC["tables"][1], "events": [{**LAB, "time": "drwn", "numeric_value": "nubmer"}]},
            {**SPEC["tables"][1], "name": "gone", "file": "gone"},
        ]
    )
    found = preview_cohort(spec, folder())
    text = "\n".join(map(str, found.problems))
    for column, meant in (("sexx", "sex"), ("drwn", "drawn"), ("nubmer", "number")):
        assert f"no column '{column}'. Did you mean '{meant}'?" in text
    assert "A raw table is missing: gone" in text
    assert len(found.problems) == 4


def test_a_table_that_cannot_be_used_leaves_the_others_to_be_seen(folder):
    root = folder()
    (root / "people.csv").write_bytes(b"")
    found = preview_cohort(tiny(), root)
    assert "no header" in str(found.problems[0])
    assert found.roster is None
    assert table_of(found).accepted == 90  # whoever has rows counts as a subject


@pytest.mark.parametrize(
    ("spec", "labs", "said"),
    [
        (lab({"available": None}), ROWS, "known when it was drawn"),
        (lab({"available": None, "section": "conditions"}), ROWS, "when was it coded"),
        (lab({"available": None, "section": "notes"}), ROWS, "was it filed"),
        (lab(), ROWS.replace(" 10:00:00", " 00:00:00"), "always midnight"),
        (lab({"available": {"column": "filed"}}), ROWS.replace(":00,,", ":00,2019-05-05,"), "before `time`"),
        (lab({"code": "LAB//{number}"}), ROWS, "90 different codes in 90 events"),
        (lab({"code": "LAB//{text}"}), ROWS, "no code in 100.0% of the rows: `text` is empty"),
        (lab(file="none", optional=True), ROWS, "absent (it is optional)"),
        (lab(), "7,50,mg,2020-01-01,,1,\n1,50,mg,2020-01-01,,1,\n", "50.0% of the rows are of subjects who"),
        (lab(), "1,50,mg,x,,1,\n1,50,mg,2020-01-01,,1,\n", "50.0% of the rows would be quarantined"),
        (lab({"when": {"equals": {"text": "no"}}}), ROWS, "no row of the sample makes it"),
        (lab(), "", "no records"),
    ],
)
def test_what_deserves_a_second_look_is_said(folder, spec, labs, said):
    found = preview_cohort(spec, folder(labs))
    assert not found.problems
    assert any(said in doubt for doubt in concerns(found)["labs"]), concerns(found)


def test_a_sound_table_raises_no_doubts(folder):
    root = folder(ROWS.replace(":00,,", ":00,2021-01-01 10:00:00,"))
    (root / "items.csv").write_text("item,name\n50,Sodium\n51,Potassium\n")
    assert concerns(preview_cohort(tiny(), root)) == {"": [], "people": [], "labs": []}


def test_doubts_about_the_cohort(folder):
    root = folder(people=FOLK + "3,F,1970,\nx,F,1970,\n")
    (root / "notes.csv").write_text("a\n")
    (root / "README.txt").write_text("no table")
    spec = tiny(
        decision_nodes={
            **SPEC["decision_nodes"],
            "triggers": [{"name": "x", "kind": "event", "codes": ["^Q"]}],
        }
    )
    said = "\n".join(concerns(preview_cohort(spec, root))[""])
    assert "1 further rows of subjects that it already has" in said
    assert "1 of 5 rows of the roster have no readable id" in said
    assert "trigger 'x': none of its codes" in said
    assert "does not read: notes.csv" in said
    assert "README" not in said


def test_a_join_that_finds_little_is_told(folder, monkeypatch):
    monkeypatch.setattr(samples, "JOINED_ROWS", 2)
    root = folder()
    (root / "items.csv").write_text("item,name\n1,a\n2,b\n")
    labs = concerns(preview_cohort(tiny(), root))["labs"]
    assert any("of which only the first 2 rows were read" in doubt for doubt in labs)


def test_a_table_in_many_files_is_sampled_over_all(tmp_path):
    root = write_tables(tmp_path / "raw", PEOPLE + FOLK, LABS)
    (root / "lab" / "labs.csv").unlink()
    for i in range(40):
        (root / "lab" / f"ward_{i:02d}.csv").write_text(LABS + f"1,{i},mg,2020-01-01,,1,\n")
    labs = table_of(preview_cohort(lab(file="lab/ward_{ward}"), root))
    assert (len(labs.files), labs.looked_at, labs.read) == (40, 8, 8)
    assert labs.events[0].events["code"][-1] == "LAB//39//mg"


def test_a_column_that_few_of_many_files_have_is_not_missing(tmp_path):
    root = write_tables(tmp_path / "raw", PEOPLE + FOLK, LABS)
    (root / "lab" / "labs.csv").unlink()
    for i in range(40):
        head = LABS if i == 1 else LABS.replace("filed,", "")
        (root / "lab" / f"ward_{i:02d}.csv").write_text(head)
    assert not preview_cohort(lab(file="lab/ward_{ward}"), root).problems
    assert preview_cohort(lab({"available": "field"}, file="lab/ward_{ward}"), root).problems


def test_a_roster_of_many_batches_is_read_whole(folder, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 64)
    monkeypatch.setattr(samples, "_IDS_HELD", 3)
    people = "".join(f"{i % 40},F,1950,\n" for i in range(1, 61))
    found = preview_cohort(tiny(), folder(people=people)).roster
    assert found
    assert (found.rows, found.subjects, found.whole) == (60, 40, True)


def test_only_the_beginning_of_a_table_is_read(folder, tmp_path):
    """What lies behind the sample is not even looked at: a damaged end goes unnoticed."""
    root = folder("1,50,mg,2020-01-01,,1,\n" * 600_000 + '1,"open\n')
    found = preview_cohort(tiny(), root, rows=10)
    assert table_of(found).read == 10
    assert not found.problems


def run(*args: str):
    return CliRunner().invoke(app, ["check", *args], env={"COLUMNS": "200"})


def written(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **changes}))
    return str(path)


def test_the_command_shows_and_judges(folder, tmp_path):
    root = folder()
    good = run(written(tmp_path), "--root", str(root), "--rows", "50")
    assert good.exit_code == 0, good.output
    assert "50 rows looked at: 50 accepted, 0 quarantined" in good.output
    assert "LAB//50//mg" in good.output
    assert "can be used" in good.output
    bad = run(written(tmp_path, tables=[{**SPEC["tables"][0], "file": "persons"}]), "--root", str(root))
    assert bad.exit_code == 1
    assert "A raw table is missing: persons" in bad.output


def test_brackets_in_titles_and_columns_are_shown_as_they_are(folder, tmp_path):
    people = {
        **SPEC["tables"][0],
        "events": [{**SPEC["tables"][0]["events"][1], "time": {"year": "born [/x]"}}],
    }
    root = folder()
    (root / "people.csv").write_text("pid,born [/x]\n1,x\n")
    found = run(written(tmp_path, title="A [/cohort] [mg]", tables=[people]), "--root", str(root))
    assert found.exit_code == 0, found.output
    assert "tiny: A [/cohort] [mg]" in found.output
    assert "born [/x]" in found.output


def test_a_simulated_cohort_is_simulated_to_be_looked_at():
    found = run("synthetic_oncology")
    assert found.exit_code == 0, found.output
    assert "20 subjects" in found.output
