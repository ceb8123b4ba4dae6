"""What a raw text says, once white space, signs for missing and other spellings are gone."""

import polars as pl

from ehr_assets.cohorts.file_spec import FileSpec, Lists

NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"  # a decimal number


def cleaned(columns: list[str], how: FileSpec) -> list[pl.Expr]:
    """The text columns without surrounding white space, null where that leaves nothing (or a sign for it)."""
    out = []
    for column in columns:
        text = pl.col(column).str.strip_chars()
        recode = how.recode.get(column, {})
        missing = [m for m in how.missing if m not in recode]
        said = (text != "") & ~text.is_in(missing) if missing else text != ""
        text = pl.when(said).then(text)
        if column in how.upper:
            text = text.str.to_uppercase()
        if recode:
            text = text.replace_strict(
                list(recode), list(recode.values()), default=text, return_dtype=pl.String
            )
        out.append(text.alias(column))
    return out


def unrolled(frame: pl.DataFrame, lists: Lists | None) -> pl.DataFrame:
    """One row for each place in the lists; the other columns are repeated."""
    columns = [c for c in lists.columns if c in frame.columns] if lists else []
    if not lists or not columns:
        return frame
    # A null is a list of one nothing.
    split = frame.with_columns(pl.col(c).fill_null("").str.split(lists.separator) for c in columns)
    places = pl.int_ranges(0, pl.max_horizontal(pl.col(c).list.len() for c in columns))
    padded = split.with_columns(
        pl.when(pl.col(c).list.len() == 1)
        .then(pl.col(c).list.gather(places * 0))
        .otherwise(pl.col(c).list.gather(places, null_on_oob=True))
        for c in columns
    )
    return padded.explode(columns)
