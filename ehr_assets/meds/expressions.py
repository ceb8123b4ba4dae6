"""Text columns to numbers, ids, codes and conditions: the polars expressions of the cohort spec language.

One expression per idea; what is done with rows that do not parse is decided in `rows.py`. Times are
`times.py`.
"""

import hashlib
import re
from collections.abc import Mapping

import polars as pl

from ehr_assets.cohorts.event_spec import SectionRules, When
from ehr_assets.cohorts.file_spec import FileSpec, Lists
from ehr_assets.cohorts.templates import parse_template
from ehr_assets.contracts import SECTIONS

_NUMBER = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
_WHOLE = r"^-?\d+$"


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


def whole_number(text: pl.Expr) -> pl.Expr:
    """int64, null where the text is none."""
    return pl.when(text.str.contains(_WHOLE)).then(text).cast(pl.Int64, strict=False)


def text_ids(texts: pl.Series) -> pl.Series:
    """int64 of text ids: the first 63 bits of their SHA-256, so that no id depends on who else is there."""
    distinct = texts.drop_nulls().unique()
    ids = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") >> 1 for t in distinct]
    return texts.replace_strict(distinct, pl.Series(ids, dtype=pl.Int64), default=None, return_dtype=pl.Int64)


def number(text: pl.Expr) -> pl.Expr:
    """float64, null where the text is no decimal number (``nan``, ``inf`` and ``1,000`` are none)."""
    return pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)


def fits_float32(value: pl.Expr) -> pl.Expr:
    """Whether a number stays finite as float32, the type MEDS stores."""
    return value.cast(pl.Float32).is_finite()


def template(text: str) -> pl.Expr:
    """The code (or description) of each row; null where a column without default is null."""
    parts = []
    for part in parse_template(text):
        if part.column is None:
            parts.append(pl.lit(part.text))
        elif part.text is None:
            parts.append(pl.col(part.column))
        else:
            parts.append(pl.col(part.column).fill_null(part.text))
    return pl.concat_str(parts)


def condition(when: When) -> pl.Expr:
    """Whether each row fulfils `when`; never null. Reads the parsed numbers of `When.numbers`."""
    tests = [pl.col(c).is_not_null() for c in when.not_null]
    tests += [pl.col(c).is_null() for c in when.is_null]
    tests += [pl.col(c).eq_missing(v) for c, v in when.equals.items()]
    tests += [pl.col(c).is_in(vs).fill_null(False) for c, vs in when.is_in.items()]
    tests += [~pl.col(c).is_in(vs).fill_null(False) for c, vs in when.not_in.items()]
    tests += [pl.col(c).str.contains(p).fill_null(False) for c, p in when.matches.items()]
    tests += [(pl.col(parsed(c, "number")) >= v).fill_null(False) for c, v in when.at_least.items()]
    tests += [(pl.col(parsed(c, "number")) <= v).fill_null(False) for c, v in when.at_most.items()]
    return pl.all_horizontal(tests) if tests else pl.lit(True)


def section_by(rules: SectionRules, texts: pl.Series) -> pl.Series:
    """Positions in SECTIONS (int8) by the rules; every distinct text is looked at once."""
    distinct = texts.unique()
    default = SECTIONS.index(rules.default)
    compiled = [(re.compile(p), SECTIONS.index(s)) for p, s in rules.rules.items()]
    found = [next((s for p, s in compiled if p.search(t or "")), default) for t in distinct]
    return texts.replace_strict(distinct, pl.Series(found, dtype=pl.Int8), return_dtype=pl.Int8)


def converted(texts: pl.Expr, to: Mapping[str, str]) -> pl.Expr:
    """Texts with some of them replaced; null stays null."""
    return texts.replace_strict(list(to), list(to.values()), default=texts, return_dtype=pl.String)


def parsed(column: str, kind: str) -> str:
    """The name under which `rows.py` keeps a column's parsed form."""
    return f"__{kind}__{column}"
