"""Text columns to numbers, ids, codes and conditions: the polars expressions of the cohort spec language.

One expression per idea; what is done with rows that do not parse is decided in `problems.py`. Times are
`times.py`, numbers as events have them `values.py`.
"""

import hashlib
import re
from collections.abc import Mapping

import polars as pl

from ehr_assets.cohorts.event_spec import SectionRules, When
from ehr_assets.cohorts.templates import parse_template
from ehr_assets.contracts import SECTIONS

# Not \d: that has the digits of all scripts.
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_WHOLE = r"^-?[0-9]+$"


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


def template_bytes(text: str) -> pl.Expr:
    """The length of each row's code, without making it; null where it is null."""
    literal, lengths = 0, []
    for part in parse_template(text):
        if part.column is None:
            literal += len((part.text or "").encode())
        else:
            length = pl.col(part.column).str.len_bytes()
            lengths.append(length if part.text is None else length.fill_null(len(part.text.encode())))
    return pl.sum_horizontal(lengths, ignore_nulls=False) + literal


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
