"""The profile of a cohort: its numbers by hand, no rare code, and a page that stands alone and repeats."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import LABS, PEOPLE, extract, write_tables
from meds_support import Frame, record, row, static

from ehr_assets.contracts import SPLITS
from ehr_assets.fanout import Machine
from ehr_assets.meds.frames import UNITS_FILE
from ehr_assets.reports.profile.page import NUMBERS, PAGE, picture_png, read_profile, write_profile
from ehr_assets.reports.profile.tables import FEWEST, LAGS, count_profile

LINEAGE = [{"asset": "c/meds_events", "data version": "0123abcd"}]


def cohort(root: Path, frame: Frame | None = None) -> Path:
    """28 subjects with 60 labs each (see `Frame`), codes that 11 and 10 of them have, and a quarantine."""
    frame = frame or Frame()
    for subject in range(1, 12):
        frame.add(row(subject, 61, "ENOUGH", section="observations", later=3))
    for subject in range(1, 11):
        # More events than anything else, but of ten subjects only.
        frame.add(*(row(subject, 62 + i / 400, "SECRET", text="x", section="notes") for i in range(200)))
    frame.write(root)
    (root / "quarantine").mkdir()
    reasons = ["no time"] * 3 + ["no code"]
    table = {"table": ["labs"] * 4, "row": [1, 2, 3, 4], "column": [None] * 4, "reason": reasons}
    pl.DataFrame(table).write_parquet(root / "quarantine" / "quarantine.parquet")
    pl.DataFrame({"read": [100], "quarantined": [4]}).write_parquet(root / "accounting.parquet")
    return root


def test_the_numbers(tmp_path):
    p = count_profile(cohort(tmp_path), Machine())
    events = 28 * 63 + 11 + 2000
    expected = {"subjects": 28, "in_roster": 28, "events": events, "codes": 5, "deaths": 28, "median": 63.0}
    assert p.totals.items() >= {**expected, "read": 100, "quarantined": 4, "first_year": 2020}.items()
    assert p.splits == {"train": 20, "tuning": 4, "held_out": 4}
    assert p.quarantine == {"no time": 3, "no code": 1}
    assert p.years["measurements"] == {2020: 28 * 60}
    assert "demographics" not in p.years, "births and static rows have no year of their own"
    assert p.with_section["notes"] == pytest.approx(10 / 28)
    assert p.with_section["procedures"] == 0
    assert p.measurements == {"number": 0.0, "text": 1.0, "number and text": 0.0, "unit": None}
    assert dict(zip(LAGS, p.lags["observations"], strict=True)) == dict(
        zip(LAGS, [0, 0, 11, 0, 0], strict=True)
    )
    assert p.lags["measurements"] == [0, 28 * 60, 0, 0, 0]
    assert p.ages == {"F": [0, 0, 28, 0, 0, 0, 0, 0, 0, 0]}
    assert {s: sum(n) for s, n in p.follow_up.items()} == p.splits
    step = p.follow_up_edges[1]
    assert [i for i, n in enumerate(p.follow_up["train"]) if n] == [int(70 / 365.25 / step)]


def test_codes_of_few_subjects_are_not_shown(tmp_path):
    p = count_profile(cohort(tmp_path / "meds"), Machine())
    assert {c.code: c.subjects for c in p.codes}["ENOUGH"] == FEWEST == 11
    assert [c.code for c in p.codes][:2] == ["LAB//0", "LAB//1"], "most events first"
    (tmp_path / "out").mkdir()
    write_profile("T", "D", tmp_path / "meds", LINEAGE, tmp_path / "out", Machine())
    for file in (PAGE, NUMBERS):
        assert "SECRET" not in (tmp_path / "out" / file).read_text()


def test_units_are_counted_as_the_extraction_left_them(tmp_path):
    people = PEOPLE + "".join(f"{i},F,1950,\n" for i in range(1, 4))
    labs = LABS + "1,50,mg,2020-01-01,,1,\n2,50,,2020-01-01,,1,\n3,60,,2020-01-01,,1,\n3,60,,2020-01-02,,1,\n"
    got = extract(write_tables(tmp_path / "raw", people, labs), tmp_path)
    assert count_profile(got.out, Machine()).measurements["unit"] == pytest.approx(3 / 4)
    assert dict(got.codes.select("code", "unit").rows())["LAB//60//UNK"] is None
    (got.out / UNITS_FILE).unlink()
    assert count_profile(got.out, Machine()).measurements["unit"] is None


def test_rare_texts_for_a_sex_are_not_shown(tmp_path):
    frame = Frame()
    for (_, rows), more in zip(frame.files.items(), ((1, 2, 3), (21, 22), ()), strict=True):
        for at in [i for i, r in enumerate(rows) if r[0] in more and r[2].startswith("GENDER")]:
            rows[at] = [*rows[at][:2], f"GENDER//Jane Roe 1950-01-0{rows[at][0] % 9}", *rows[at][3:]]
    p = count_profile(frame.write(tmp_path), Machine())
    assert {sex: sum(n) for sex, n in p.ages.items()} == {"F": 23, "other": 5}


def test_the_page_stands_alone_repeats_and_names_nobody(tmp_path):
    root = cohort(tmp_path / "meds")
    pages = []
    for name, workers in (("one", 1), ("two", 3)):
        out = tmp_path / name
        out.mkdir()
        stats = write_profile(
            "A <made-up> cohort", "What it is", root, LINEAGE, out, Machine(workers=workers), ["passed"]
        )
        pages.append([(out / file).read_bytes() for file in (PAGE, NUMBERS)])
    assert pages[0] == pages[1]
    page = pages[0][0].decode()
    assert "A &lt;made-up&gt; cohort" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "<script" not in page
    assert page.count("<svg") == 8
    assert "passed over" in page
    assert str(tmp_path) not in page
    assert stats["share_known_later_than_a_day"] == pytest.approx(11 / (28 * 61 + 11 + 2000), abs=1e-3)
    assert "var(--ink)" in page, "figures take the page's colours, also in the dark"
    assert "#1f2933" not in page.split("</style>")[1]
    assert read_profile(tmp_path / "one").as_dict() == json.loads(pages[0][1], object_pairs_hook=_whole_keys)
    assert picture_png(tmp_path / "one") == picture_png(tmp_path / "two")


def _whole_keys(pairs):
    return {int(k) if k.isdigit() else k: v for k, v in pairs}


def test_an_empty_cohort_has_a_page(tmp_path):
    frame = Frame()
    frame.files = {f"{split}/0": [] for split in SPLITS}
    frame.splits = {1: "train"}
    frame.write(tmp_path / "meds")
    (tmp_path / "out").mkdir()
    stats = write_profile("T", "", tmp_path / "meds", LINEAGE, tmp_path / "out", Machine())
    assert (stats["subjects"], stats["events"], stats["codes_shown"]) == (0, 0, 0)
    assert "no code is left" in (tmp_path / "out" / PAGE).read_text()
    assert picture_png(tmp_path / "out")


def test_what_is_odd_in_a_record_breaks_no_page(tmp_path):
    """No birth, no sex, one event, an event before birth, the years 1900 and 2200."""
    frame = Frame()
    frame.files["train/0"] = [
        row(1, 0), row(1, 80_000),
        *(r for r in record(2) if r[1] is None or r[1] > datetime(2000, 1, 1)),
        [static(3)[0], *static(3)[1:]],
        row(4, -44_000, "X", section="notes"),
        row(5, 1), row(5, 2, "MEDS_BIRTH", section="demographics"),
    ]  # fmt: skip
    frame.write(tmp_path / "meds")
    (tmp_path / "out").mkdir()
    write_profile("T", "", tmp_path / "meds", LINEAGE, tmp_path / "out", Machine())
    p = read_profile(tmp_path / "out")
    assert (p.totals["first_year"], p.totals["last_year"]) == (
        1899,
        (datetime(2020, 1, 1) + timedelta(80_000)).year,
    )
    assert p.ages["not recorded"][0] == 1  # born after the first event: age zero, and no crash
