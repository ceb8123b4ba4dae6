"""The words of the tagged serialization: tags, time gaps, ages, names and values. Each is one piece.

Everything here works on *distinct* values; `tagged.py` lays the pieces out along the records.

| piece | text | distinct strings |
|---|---|---|
| tag | `<conditions>`, `</conditions>` and so on (SMB-Structure, Table 1) | 16 |
| time gap | `+5m`, `+3h`, `+12d`, `+4mo`, `+1.2y`: since the previous block became known | a few hundred |
| lag | ` @-5d`: how long before it became known an event happened, when that is over a day | a few hundred |
| name | newline, then the description of the code, or the code | one per code |
| value | `: 11.2 g/dL` or `: text` | |
| age | newline, `Age: 63` | 151 |

Durations are rounded down: to 5 minutes below an hour (`+1m` below 5 minutes), to hours below a day, to
days below 60 days, to months of 30.4375 days below a year of 365.25 days, to a tenth of a year above.
"""

import numpy as np
import polars as pl

from ehr_assets.contracts import SECTIONS
from ehr_assets.errors import DatasetError

OPENING_TAGS = tuple(f"<{s}>" for s in SECTIONS)
CLOSING_TAGS = tuple(f"</{s}>" for s in SECTIONS)
# Piece ids: the opening tag of section i is i, its closing tag 8 + i.
TAGS = OPENING_TAGS + CLOSING_TAGS

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = round(365.25 * DAY)
MONTH = YEAR // 12

_MAX_TENTHS = 2_000
_MAX_AGE = 150


def _durations() -> list[str]:
    minutes = ["1m"] + [f"{5 * i}m" for i in range(1, 12)]
    hours = [f"{i}h" for i in range(1, 24)]
    days = [f"{i}d" for i in range(1, 60)]
    months = [f"{i}mo" for i in range(1, 12)]
    years = [f"{i / 10:.1f}".removesuffix(".0") + "y" for i in range(10, _MAX_TENTHS + 1)]
    return minutes + hours + days + months + years


DURATIONS = _durations()
_HOURS_AT, _DAYS_AT, _MONTHS_AT, _YEARS_AT = 12, 12 + 23, 12 + 23 + 59, 12 + 23 + 59 + 11


def duration_index(microseconds: np.ndarray) -> np.ndarray:
    """Positions in `DURATIONS` of positive durations (int64 microseconds, any shape)."""
    us = np.asarray(microseconds, np.int64)
    return np.select(
        [us < HOUR, us < DAY, us < 60 * DAY, us < YEAR],
        [
            us // (5 * MINUTE),
            _HOURS_AT - 1 + us // HOUR,
            _DAYS_AT - 1 + us // DAY,
            _MONTHS_AT - 1 + us // MONTH,
        ],
        default=_YEARS_AT + np.minimum(us // (YEAR // 10), _MAX_TENTHS) - 10,
    ).astype(np.int32)


GAPS = [f"+{d}" for d in DURATIONS]
LAGS = [f" @-{d}" for d in DURATIONS]
AGES = [f"\nAge: {years}" for years in range(_MAX_AGE + 1)]


def age_index(microseconds: np.ndarray) -> np.ndarray:
    """Positions in `AGES` for durations since birth (int64 microseconds): whole years, 0 to 150."""
    return np.clip(np.asarray(microseconds, np.int64) // YEAR, 0, _MAX_AGE).astype(np.int32)


def shortened(text: pl.Series, max_chars: int) -> pl.Series:
    """Strings with white space collapsed (a newline begins an event) and cut to `max_chars`, `…` included."""
    # Only as much as can matter is looked at: notes may be very long.
    clean = text.str.slice(0, 8 * max_chars + 64).str.replace_all(r"\s+", " ").str.strip_chars()
    name = clean.name
    cut = (
        pl.when(pl.col(name).str.len_chars() > max_chars)
        .then(pl.col(name).str.slice(0, max_chars - 1) + "…")
        .otherwise(pl.col(name))
    )
    return clean.to_frame().select(cut).to_series()


def names(codes: pl.Series, dictionary: pl.DataFrame, max_chars: int) -> pl.Series:
    """Name pieces of distinct codes: the description in `dictionary` (codes.parquet), else the code."""
    described = (
        codes.alias("code")
        .to_frame()
        .join(
            dictionary.select("code", "description").unique("code", keep="first", maintain_order=True),
            on="code",
            how="left",
            maintain_order="left",
        )
    )
    description = shortened(described["description"].cast(pl.String), max_chars)
    fallback = shortened(described["code"], max_chars)
    text = pl.select(
        pl.when(description.fill_null("") != "").then(description).otherwise(fallback)
    ).to_series()
    return "\n" + text


def units(codes: pl.Series, dictionary: pl.DataFrame) -> pl.Series:
    """The unit of each distinct code, as ` g/dL` with its leading space, or an empty string."""
    if "unit" not in dictionary.columns:
        return pl.Series("unit", [""] * len(codes), dtype=pl.String)
    found = (
        codes.alias("code")
        .to_frame()
        .join(
            dictionary.select("code", pl.col("unit").cast(pl.String)).unique(
                "code", keep="first", maintain_order=True
            ),
            on="code",
            how="left",
            maintain_order="left",
        )["unit"]
    )
    clean = shortened(found, 40).fill_null("")
    return pl.select(pl.when(clean != "").then(" " + clean).otherwise(pl.lit(""))).to_series()


def numbers(values: pl.Series) -> pl.Series:
    """Compact decimal text of floats: two decimals at most, no trailing zeros, never `-0`."""
    text = values.cast(pl.Float64).round(2).cast(pl.String).str.strip_suffix(".0")
    return text.str.replace(r"^-0$", "0")


def section_index(distinct: pl.Series) -> np.ndarray:
    """Positions in `SECTIONS` of distinct section names; DatasetError for one that is not of the eight."""
    known = {s: i for i, s in enumerate(SECTIONS)}
    found = [known.get(s, -1) for s in distinct.to_list()]
    if -1 in found:
        raise DatasetError(
            f"{found.count(-1)} section name(s) are not one of the eight: {', '.join(SECTIONS)}.",
            where="the column 'section' of a MEDS frame",
            do="Mend the section in the cohort spec and materialize meds_events again.",
        )
    return np.array(found, np.int32)
