"""What an event's number, text and unit become: conversions, ranges, which of number and text is kept."""

import polars as pl

from ehr_assets.cohorts.event_spec import EventSpec
from ehr_assets.meds import expressions as ex


def number(event: EventSpec, column: str) -> pl.Expr:
    """float64: the parsed number of `column`, in the unit that the spec converts to."""
    read = pl.col(ex.parsed(column, "number"))
    found = read
    for given, to in event.convert.items():
        found = pl.when(pl.col(event.unit or "") == given).then(read * to.factor + to.offset).otherwise(found)
    return found


def overflows(event: EventSpec, column: str) -> pl.Expr:
    """Whether a number is converted into one that is out of range; null where there is no number."""
    converts = pl.col(event.unit or "").is_in([*event.convert])
    return converts & ~ex.fits_float32(number(event, column))


def with_conversions(rows: pl.DataFrame, event: EventSpec) -> pl.DataFrame:
    """Numbers in units that the spec converts, and those units, replaced."""
    if not event.convert:
        return rows
    assert event.unit
    column = event.numeric_value or event.value or ""
    units = {given: to.to for given, to in event.convert.items()}
    return rows.with_columns(
        number(event, column).alias(ex.parsed(column, "number")),
        ex.converted(pl.col(event.unit), units).alias(event.unit),
    )


def number_and_text(event: EventSpec) -> tuple[pl.Expr, pl.Expr]:
    """float32 and text of an event; a text beside a number only where the spec wants it."""
    if event.value:
        value = _stored(event.value)
        found = pl.when(value.is_finite()).then(value)
        return found, pl.when(found.is_null()).then(pl.col(event.value))
    found = _stored(event.numeric_value) if event.numeric_value else pl.lit(None, pl.Float32)
    text = pl.col(event.text_value) if event.text_value else pl.lit(None, pl.String)
    return found, text if event.text_beside_number else pl.when(found.is_null()).then(text)


def _stored(column: str) -> pl.Expr:
    """As MEDS stores it. -0 becomes 0: the two sort as equals, and bytes would depend on who came first."""
    value = pl.col(ex.parsed(column, "number")).cast(pl.Float32)
    return pl.when(value == 0).then(pl.lit(0.0, pl.Float32)).otherwise(value)
