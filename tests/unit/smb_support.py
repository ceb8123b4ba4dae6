"""Hand-made records for the smb text: every corner that its reference has."""

from datetime import datetime, timedelta
from math import inf, nan

import polars as pl

H = timedelta(hours=1)
BORN = datetime(1956, 3, 2)
DAY = datetime(2020, 3, 1)
CUTS = [DAY - 400 * 24 * H, DAY + 8 * H, DAY + 9 * H, DAY + 13 * H, DAY + 40 * H, DAY + 400 * 24 * H]
CODES = pl.DataFrame(
    {
        "code": ["LAB//hb", "LAB//na", "DX//C34", "A", "A (u)", "A: 1.00", "EMPTY"],
        "description": ["Hemoglobin", "Sodium", "Lung\n cancer", None, "", None, None],
        "unit": ["g/dL", None, None, "u", "", "x", ""],
    },
    schema={"code": pl.String, "description": pl.String, "unit": pl.String},
)


def _lab(hour: float, value: float | None, text: str | None = None, late: float = 0, code: str = "LAB//hb"):
    t = DAY + hour * H
    return (t, code, value, text, t + late * H, "measurements")


RECORDS: dict[str, list[tuple]] = {
    "sections in order, static rows, late diagnosis": [
        (None, "GENDER//F", None, None, None, "demographics"),
        (BORN, "MEDS_BIRTH", None, None, BORN, "demographics"),
        (DAY, "DX//C34", None, None, DAY + 12 * H, "conditions"),
        *((DAY + 9 * H, f"{s.upper()}//1", None, None, DAY + 9 * H, s) for s in ("notes", "drugs", "death")),
        (DAY + 9 * H, "PROC//1", None, None, DAY + 9 * H, "procedures"),
        (DAY + 9 * H, "OBS//1", 3.0, "not shown", DAY + 9 * H, "observations"),
        _lab(8, 11.25),
        (DAY + 39 * H, "NOTE", None, "two\nlines, and a comma", DAY + 40 * H, "notes"),
    ],
    "more than five values, in two days": [_lab(h, 10 + h / 8) for h in (1, 2, 3, 4, 5, 6, 7, 8.5, 30)],
    "values that became known out of order": [
        _lab(h, h, late=late)
        for h, late in ((1, 12), (2, 0), (3, 6), (4, 0), (5, 0), (6, 0), (7, 30), (8, 0), (9, 0))
    ],
    "a line that moves": [_lab(1, 1.0, late=11), _lab(2, 2.0, code="LAB//na"), _lab(3, 3.0)],
    "numbers": [
        _lab(8, v, code=f"N//{i}")
        for i, v in enumerate([7.0, 0.125, 2.675, -0.001, 1e30, inf, 123456.789, nan, None])
    ],
    "no value, empty and blank text": [
        _lab(8, None, "", code="EMPTY"),
        _lab(8, None, " ", code="BLANK"),
        _lab(8, nan, "pos", code="TEXT"),
        _lab(8, None, "pos"),
    ],
    "lines that read alike": [
        _lab(1, 1.0, code="A: 1.00"),
        _lab(2, None, code="A: 1.00"),
        _lab(3, 2.0, code="A"),
        _lab(4, None, code="A (u): 2.00", late=8),
        _lab(5, None, code="A (u)"),
    ],
    "births": [
        (BORN, "MEDS_BIRTH", None, None, DAY + 9 * H, "demographics"),
        (BORN, "DATE OF BIRTH", 5.0, None, BORN, "demographics"),
        (DAY + 8 * H, "Preterm Birth", None, None, DAY + 8 * H, "conditions"),
        (DAY + 8 * H, "Stillbirth", 1.0, None, DAY + 8 * H, "conditions"),
        (DAY + 8 * H, "Birth weight", 1.0, None, DAY + 8 * H, "measurements"),
    ],
    "demographics over time": [
        (BORN, "MEDS_BIRTH", None, None, DAY + 12 * H, "demographics"),
        (DAY, "MARITAL", None, "single", DAY + 9 * H, "demographics"),
        (DAY + 30 * H, "MARITAL", None, "married", DAY + 30 * H, "demographics"),
        (DAY + 30 * H, "DX//C34", None, None, DAY + 40 * H, "conditions"),
    ],
    "static rows alone": [(None, "GENDER//F", 1.0, None, None, "demographics")],
    "a static row that is no demographics": [
        (None, "BLOOD_GROUP", None, "A", None, "observations"),
        _lab(8, 1.0),
    ],
}
