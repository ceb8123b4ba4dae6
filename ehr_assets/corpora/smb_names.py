"""The names of lines in the smb text: one per code or description, its unit, and which need special care."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ehr_assets.corpora.pieces import encoded


@dataclass(frozen=True)
class Names:
    """Distinct line names (N of them) of a frame's rows (R of them).

    Attributes:
        texts: [N] the names.
        units: [N] the unit of each as it stands in the text, ` (g/dL)`, or an empty string.
        of_row: int64 [R] positions in `texts`.
        unit_of_row: list of units by row is `unit_texts[unit_of_row]`; int64 [R].
        unit_texts: distinct entries of `units` by code.
        birth: bool [N]: a line of that name reads `Birth: <date>`.
        mixed: bool [N]: its codes have several units, so that the last value decides.
        rival: bool [N]: a line of that name may read like a line of another name.
    """

    texts: list[str]
    units: list[str]
    of_row: np.ndarray
    unit_of_row: np.ndarray
    unit_texts: list[str]
    birth: np.ndarray
    mixed: np.ndarray
    rival: np.ndarray


def name_table(column: pl.Series, codes: pl.DataFrame, kind: Literal["code", "description"]) -> Names:
    """The names of rows by their codes.

    Args:
        column: the rows' codes.
        codes: `metadata/codes.parquet`.
        kind: "code": as the reference does by default; "description": that, where there is one.
    """
    code, distinct = encoded(column)
    known = (
        distinct.alias("code")
        .to_frame()
        .join(codes.unique("code", keep="first", maintain_order=True), "code", "left", maintain_order="left")
    )
    shown = known["code"]
    if kind == "description":
        described = pl.col("description").cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
        # A line break in a name would read like two lines.
        shown = known.select(
            pl.when(described.fill_null("") != "").then(described).otherwise("code")
        ).to_series()
    name_of_code, texts = encoded(shown)
    unit = (
        known["unit"].cast(pl.String).fill_null("")
        if "unit" in known.columns
        else pl.Series([""] * len(known))
    )
    unit = pl.select(pl.when(unit != "").then(" (" + unit + ")").otherwise(pl.lit(""))).to_series()
    unit_of_code, unit_texts = encoded(unit)
    n = len(texts)
    # The first code of a name gives its unit; where others disagree, the name is mixed.
    first = np.zeros(n, np.int64)
    first[name_of_code[::-1]] = unit_of_code[::-1]
    mixed = np.zeros(n, bool)
    mixed[name_of_code[unit_of_code != first[name_of_code]]] = True
    words = texts.to_list()
    birth = np.array(["birth" in w.lower() for w in words], bool)
    rival = _rivals(words)
    if birth.sum() > 1:
        rival |= birth
    return Names(
        texts=words,
        units=[unit_texts[int(i)] for i in first],
        of_row=name_of_code[code].astype(np.int64) if n else np.zeros(0, np.int64),
        unit_of_row=unit_of_code[code].astype(np.int64) if n else np.zeros(0, np.int64),
        unit_texts=unit_texts.to_list(),
        birth=birth,
        mixed=mixed,
        rival=rival,
    )


def _rivals(names: list[str]) -> np.ndarray:
    """Names of which one is another plus what a line goes on with, ` (` or `: `."""
    at = {name: i for i, name in enumerate(names)}
    rival = np.zeros(len(names), bool)
    for i, name in enumerate(names):
        for mark in (" (", ": "):
            end = name.find(mark)
            while end >= 0:
                if (other := at.get(name[:end])) is not None:
                    rival[[i, other]] = True
                end = name.find(mark, end + 1)
    return rival
