"""`ehr cohort new`: what is guessed of a folder of tables, and that the result loads and fits them."""

from pathlib import Path

import polars as pl
import pytest
from cohorts_support import SHARED, extract
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ehr_assets.cohorts.files import RawRoot
from ehr_assets.cohorts.profiles import profiles
from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.cohorts.starter import starter
from ehr_assets.errors import EhrError, RawTableError
from ehr_assets.meds.preview import preview_cohort
from jobs.cli.cohort import app

HOSPITAL = {
    "patients.csv": "PatientID;Sex;DateOfBirth;DateOfDeath\n"
    + "".join(f"{i:05d};{'MF'[i % 2]};{i % 28 + 1:02d}.03.19{40 + i % 50};\n" for i in range(1, 40))
    + "00040;F;01.02.1950;05.06.2021\n",
    "stays.csv": "StayID,PatientID,Ward,AdmitTime,DischargeTime\n"
    + "".join(
        f"{900 + i},{i % 40 + 1:05d},{('ICU', 'Surgery')[i % 2]},2020-01-{i % 28 + 1:02d} 10:00:00,"
        f"2020-02-{i % 28 + 1:02d} 12:30:00\n"
        for i in range(80)
    ),
    "labs.csv": "PatientID,TestCode,Result,Unit,DrawnAt,ReportedAt\n"
    + "".join(
        f"{i % 40 + 1:05d},{('NA', 'K', 'CRP')[i % 3]}x,{i % 7 if i % 9 else '<1'},mmol/l,"
        f"2020-01-{i % 28 + 1:02d} 08:{i % 60:02d},2020-01-{i % 28 + 1:02d} 09:{i % 60:02d}\n"
        for i in range(300)
    ),
    "diagnoses.csv": "StayID,PatientID,ICDCode\n"
    + "".join(f"{900 + i % 80},{i % 80 % 40 + 1:05d},C{i % 20:02d}\n" for i in range(160)),
    "tests.csv": "TestCode,TestName\nNAx,Sodium\nKx,Potassium\nCRPx,C-reactive protein\n",
}


def hospital(folder: Path) -> Path:
    folder.mkdir()
    for name, text in HOSPITAL.items():
        (folder / name).write_bytes(text.encode())
    return folder


def begun(root: Path, name: str = "mine") -> tuple[str, CohortSpec]:
    text = starter(RawRoot.of(root), name)
    path = root.parent / f"{name}.yaml"
    path.write_text(text)
    return text, load_cohort(path)


def table(spec: CohortSpec, name: str):
    return next(t for t in spec.tables if t.name == name)


def test_a_hand_made_hospital(tmp_path):
    root = hospital(tmp_path / "raw")
    text, spec = begun(root)
    assert (spec.subjects.table, spec.subjects.column, spec.subjects.ids) == ("patients", "PatientID", "text")
    patients = table(spec, "patients")
    assert patients.delimiter == ";"
    assert [e.code for e in patients.events] == ["MEDS_BIRTH", "MEDS_DEATH", "GENDER//{Sex}"]
    assert patients.events[0].time
    assert patients.events[0].time[0].format == "%d.%m.%Y"
    stays = table(spec, "stays")
    assert [e.code for e in stays.events] == ["STAYS//{Ward}", "STAYS_END"]
    lab = table(spec, "labs").events[0]
    assert lab.code == "LABS//{TestCode}//{Unit|UNK}"
    assert (lab.value, lab.unit, lab.section) == ("Result", "Unit", "measurements")
    assert lab.time
    assert lab.available
    assert (lab.time[0].column, lab.available[0].column) == ("DrawnAt", "ReportedAt")
    assert lab.description == "{label}"
    assert table(spec, "labs").joins[0].file == "tests"
    coded = table(spec, "diagnoses").events[0]
    assert coded.available
    assert coded.available[0].column == "visit_end"
    assert "#   tests: no column of subject ids" in text
    found = preview_cohort(spec, root)
    assert not found.problems
    assert [t.quarantined for t in found.tables] == [0, 0, 0, 0]


def test_nothing_is_left_out_without_a_word(tmp_path):
    """Not every column of a roster is an event; who lives where is none."""
    root = tmp_path / "raw"
    root.mkdir()
    rows = "".join(f"{i},19{40 + i},F,{150 + i},2020-01-0{i},D-0{i},\n" for i in range(1, 9))
    (root / "patients.csv").write_text("patient_id,birth_year,sex,height,enrolled,zip,ward\n" + rows)
    rows = "".join(f"{i},2020-01-0{i},K,{i % 3},tube {i}\n" for i in range(1, 9))
    (root / "labs.csv").write_text("patient_id,drawn_at,item,value,remark\n" + rows)
    text, spec = begun(root)
    assert [e.code for e in spec.tables[0].events] == ["MEDS_BIRTH", "GENDER//{sex}"]
    assert "    # CHECK: not used: height, enrolled, zip, ward\n" in text
    assert "    # CHECK: not used: remark\n" in text


def test_a_dictionary_is_read_as_it_is_written(tmp_path):
    """Its quotes, further header lines and signs for missing as well."""
    root = tmp_path / "raw"
    root.mkdir()
    (root / "patients.csv").write_text("patient_id\n1\n2\n")
    rows = "".join(f"{i % 2 + 1},2020-01-01 10:0{i % 9}:00,K{i % 3},{i}\n" for i in range(30))
    (root / "labs.csv").write_text("patient_id,drawn_at,item,value\n" + rows)
    head = "item|name|low|high\nitem|name|limit|limit\n"
    (root / "items.txt").write_text(head + "".join(f'K{i}|"{i} x|{i}|{i or "NA"}\n' for i in range(9)))
    _, spec = begun(root)
    (join,) = table(spec, "labs").joins
    told = (join.delimiter, join.quote, join.skip_rows, join.missing)
    assert told == ("|", None, 1, ["NA"])
    assert "LABS//K0" in extract(root, tmp_path, spec).codes["code"].to_list()


def test_what_it_guesses_can_be_extracted(tmp_path):
    root = hospital(tmp_path / "raw")
    _, spec = begun(root)
    got = extract(root, tmp_path, spec)
    assert got.balanced()
    assert got.stats["quarantined"] == 0
    assert got.stats["subjects"] == 40
    names = dict(got.codes.select("code", "description").rows())
    assert names["LABS//NAx//mmol/l"] == "Sodium"
    death = got.events.filter(pl.col("code") == "MEDS_DEATH")
    assert str(death["time"].item()) == "2021-06-05 23:59:59.999999"


def test_many_files_are_one_table(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    for i in range(1, 30):
        text = "Time,Parameter,Value\n00:00,Age,54\n" + "".join(
            f"{h:02d}:07,HR,{70 + h}\n" for h in range(40)
        )
        (root / f"{1000 + i}.txt").write_text(text)
    text, spec = begun(root)
    assert spec.tables[0].file == "{record_id:[0-9]+}"
    assert spec.subjects.one_row_each is False
    assert spec.tables[0].events[0].code == "RECORDS//{Parameter}"
    assert "CHECK: no date or year of birth" in text
    got = extract(root, tmp_path, spec)
    assert (got.stats["subjects"], got.stats["quarantined"], got.stats["read"]) == (29, 0, 29 * 41)


@pytest.mark.parametrize(
    ("name", "data", "how"),
    [
        (
            "t.csv",
            "patient_id,name\n1,Müller\n".encode("latin-1"),
            {"encoding": ["utf-8", "latin-1"]},
        ),
        ("t.csv", "patient_id,name\n1,Müller\n2,Weiß\n".encode("utf-16"), {"encoding": ["utf-16"]}),
        ("t.tsv", b"patient_id\tname\n1\ta, b\n2\tc\n", {"delimiter": "\t"}),
        ("t.txt", b'patient_id|name\n1|5" x\n2|c\n', {"delimiter": "|"}),
        (
            "t.csv",
            b"patient_id,days,at\nid,number of days,when\nCDE:1,CDE:2,CDE:3\n" + b"1,3,2020-01-01\n" * 9,
            {"skip_rows": 2},
        ),
        ("t.csv", b"patient_id\n1\n2\n", {"delimiter": ","}),
    ],
)
def test_dialects(tmp_path, name, data, how):
    (tmp_path / name).write_bytes(data)
    (found,) = profiles(RawRoot.of(tmp_path))
    assert found.problem is None
    assert {k: getattr(found.how, k) for k in how} == how
    assert "patient_id" in found.columns


@pytest.mark.parametrize(
    ("values", "kind", "formats"),
    [
        (["2020-01-01", "2020-02-03"], "date", ()),
        (["2020-01-01 10:00", "2020-02-03T10:00:00Z"], "timestamp", ()),
        (["31.12.2019", "01.02.2020"], "date", ("%d.%m.%Y",)),
        (["12/31/2019", "01/02/2020"], "date", ("%m/%d/%Y",)),
        (["01/02/2019", "03/04/2020"], "date", ("%m/%d/%Y", "%d/%m/%Y")),
        (["12/31/2019 10:05", "01/02/2020 23:59"], "timestamp", ("%m/%d/%Y %H:%M",)),
        (["01-Feb-2020", "03-Mar-2021"], "date", ("%d-%b-%Y",)),
        (["20200101", "20200203"], "date", ("%Y%m%d",)),
        (["10:30", "26:05"], "clock", ()),
        (["1", "-2"], "integer", ()),
        (["1.5", "2"], "number", ()),
        (["a", "2"], "text", ()),
        (["NA", ""], "empty", ()),
        (["NA", "7"], "integer", ()),
    ],
)
def test_kinds_of_columns(tmp_path, values, kind, formats):
    (tmp_path / "t.csv").write_text(
        "patient_id,the_date\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values))
    )
    (found,) = profiles(RawRoot.of(tmp_path))
    column = found.columns["the_date"]
    assert (column.kind, column.formats) == (kind, formats)


def test_doubtful_formats_are_said(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    (root / "patients.csv").write_text("patient_id,birth_date\n1,01/02/1950\n2,03/04/1960\n")
    text, _ = begun(root)
    assert "CHECK: birth_date is read as %m/%d/%Y, but may be %d/%m/%Y" in text


@pytest.mark.parametrize("content", [{}, {"notes.pdf": b"x"}, {"t.csv": b""}, {"t.csv": b"a,b\n1,2\n"}])
def test_where_nothing_can_be_guessed_it_is_said(tmp_path, content):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RawTableError, match=r"There are no tables|No table has a column"):
        starter(RawRoot.of(tmp_path), "x")


NAMES = st.sampled_from(
    [
        *(
            "patient_id",
            "id",
            "date",
            "time",
            "code",
            "value",
            "unit",
            "sex",
            "birth_date",
            "on",
            "no",
            "a b",
        ),
        *(
            'q"',
            "ü",
            "x:y",
            "{c}",
            "#h",
            "- d",
            "death_date",
            "icd_version",
            "visit_id",
            "Result Time",
            "null",
        ),
        *("1", "*", "^a$", "&a", "!t", "%"),
    ]
)
CELLS = st.sampled_from(
    [
        *("", "1", "2", "03", "2020-01-01", "2020-01-01 00:00:00", "x", "NA", "1.5", "10:30", "31.12.2019"),
        *("a|b", "-1"),
    ]
)


@st.composite
def folders(draw):
    tables = {}
    for i in range(draw(st.integers(1, 3))):
        header = draw(st.lists(NAMES, min_size=1, max_size=6))
        rows = draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=8))
        tables[draw(st.sampled_from(["patients", "labs", "stays", "diagnoses", "t"])) + f"{i}.csv"] = (
            "\n".join(
                '"' + '","'.join(cell.replace('"', '""') for cell in row) + '"' for row in [header, *rows]
            )
        )
    return tables


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=folders())
def test_whatever_the_tables_what_is_written_loads_and_can_be_checked(tmp_path_factory, tables):
    root = tmp_path_factory.mktemp("any") / "raw"
    root.mkdir()
    for name, text in tables.items():
        (root / name).write_text(text)
    try:
        _, spec = begun(root)
    except RawTableError:
        return  # no subjects: said so
    except EhrError as e:
        raise AssertionError(f"{e}\n{(root.parent / 'mine.yaml').read_text()}") from None
    found = preview_cohort(spec, root)
    assert not found.problems, (root.parent / "mine.yaml").read_text()


@pytest.mark.parametrize("folder", ["mimic_iv_demo/hosp", "mimic_iv_demo_omop/tables"])
def test_real_folders(folder, tmp_path):
    root = SHARED / folder
    if not root.is_dir():
        pytest.skip(f"{folder} is not there: name the folder of real cohorts in EHR_SHARED_DATA")
    out = tmp_path / "mine.yaml"
    made = CliRunner().invoke(app, ["new", str(root), "-o", str(out)])
    assert made.exit_code == 0, made.output
    found = preview_cohort(load_cohort(out), root)
    assert not found.problems
    assert found.roster
    assert found.roster.subjects == 100
    assert sum(e.events.height for t in found.tables for e in t.events) > 5000


def test_the_command_overwrites_nothing(tmp_path):
    root, out = hospital(tmp_path / "raw"), tmp_path / "mine.yaml"
    run = CliRunner().invoke
    assert run(app, ["new", str(root), "-o", str(out)]).exit_code == 0
    first = out.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (tmp_path / first.partition("=")[2]).resolve().is_file()
    assert isinstance(run(app, ["new", str(root), "-o", str(out)]).exception, EhrError)
    assert "name: raw" in run(app, ["new", str(root)]).output
    assert isinstance(run(app, ["new", str(root), "--name", "Not A Name"]).exception, EhrError)
