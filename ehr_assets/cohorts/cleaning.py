"""What a raw text says, once white space, signs for missing and other spellings are gone."""

import polars as pl

from ehr_assets.cohorts.file_spec import FileSpec


def cleaned(columns: list[str], how: FileSpec) -> list[pl.Expr]:
    """The text columns without surrounding white space, null where that leaves nothing (or a sign for it)."""
    out = []
    for column in columns:
        text = pl.col(column).str.strip_chars()
        said = (text != "") & ~text.is_in(how.missing) if how.missing else text != ""
        text = pl.when(said).then(text)
        if recode := how.recode.get(column):
            text = text.replace_strict(
                list(recode), list(recode.values()), default=text, return_dtype=pl.String
            )
        out.append(text.alias(column))
    return out
