"""The columns of raw files: what their headers say, and under which names a table's columns stand in each.

Reads no records. `csv_files.py` and `parquet_files.py` do, by what is found here.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from ehr_assets.cohorts.batches import FileColumns
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.parquet_files import opened
from ehr_assets.cohorts.sources import CHUNK, NUL_SIGN, CsvSource
from ehr_assets.errors import RawTableError
from ehr_assets.specs import closest

HEADER_BYTES = 4 << 20  # the longest header

_LISTED = 40  # columns in an error
_NAME = re.compile(r"(?!.*\d{4})\s*(?:[^\W\d][^\x00-\x1f]{0,80}|\d{1,2})$")  # what a record hardly looks like
_WILD = re.compile(r"\*$|\^.*\$$")  # polars takes such names for patterns


def resolved(files: Sequence[RawFile], columns: Sequence[str], how: FileSpec) -> list[FileColumns]:
    """How each file calls the columns asked for. Files of one table may differ in their columns.

    Raises:
        RawTableError: a column is missing or occurs twice; a file has no header, or cannot be read.
    """
    found, problems = _resolved(files, columns, how)
    if problems:
        raise problems[0]
    return found


def column_problems(files: Sequence[RawFile], columns: Sequence[str], how: FileSpec) -> list[RawTableError]:
    """Everything that is wrong with the columns asked for: missing, or there twice.

    Raises:
        RawTableError: a file has no header, or cannot be read.
    """
    return _resolved(files, columns, how)[1]


def lacking(files: Sequence[RawFile], columns: Sequence[str], how: FileSpec) -> list[str]:
    """The columns that `resolved` would miss. RawTableError where a file has no header."""
    return _lacking(_resolved(files, columns, how)[0], how)


def headers(file: RawFile, how: FileSpec) -> list[str]:
    """The column names of a file. RawTableError where there are none, or where the file is damaged."""
    if file.ending == ".parquet":
        with opened(file) as parquet:
            return parquet.schema_arrow.names
    with CsvSource(file, how.encoding) as source:
        size, whole = CHUNK, False
        text = b""
        # Tables of tens of thousands of columns have headers of megabytes.
        while not whole and len(text) < HEADER_BYTES:
            more = source.read(size)
            text, size = text + more, 2 * size
            names, whole = _header(text.decode("utf-8", errors="ignore"), how, final=not more)
    if any(NUL_SIGN in name for name in names):
        raise RawTableError(
            "The header of the raw table holds NUL characters: it seems to be UTF-16.",
            where=file.where,
            do="Set `encoding: utf-16-le` (or utf-16-be) at this table in the spec.",
        )
    if not any(names):
        raise RawTableError(
            "The raw table is empty: it has no header.",
            where=file.where,
            do="Export the table again, with header.",
        )
    return names


def _header(text: str, how: FileSpec, *, final: bool) -> tuple[list[str], bool]:
    """The names in the first line, and whether it ends within `text`."""
    lines = io.StringIO(text, newline="")
    quoting = csv.QUOTE_MINIMAL if how.quote else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=how.delimiter, quotechar=how.quote or '"', quoting=quoting)
    try:
        names = next(reader, [])
    except csv.Error:
        return [], final
    return names, final or bool(lines.read(1))


def labelled(header: Sequence[str]) -> list[str]:
    """Names of their own for all columns: those of an equal name are numbered, ``name#1``, ``name#2``."""
    total, seen = Counter(header), Counter[str]()
    labels = []
    for name in header:
        seen[name] += 1
        labels.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return labels


def _resolved(
    files: Sequence[RawFile], columns: Sequence[str], how: FileSpec
) -> tuple[list[FileColumns], list[RawTableError]]:
    columns = list(dict.fromkeys(columns))
    found: list[FileColumns] = []
    problems = [_unnamable(files, c) for c in columns if any(map(_WILD.match, [c, *how.aliases.get(c, [])]))]
    for file in files:
        header = headers(file, how)
        there = dict.fromkeys(labelled(header))
        in_any_case = {label.lower(): label for label in reversed(there)}
        names: dict[str, str | None] = {}
        for column in columns:
            if column in file.columns:
                continue
            candidates = [column, *how.aliases.get(column, [])]
            names[column] = _called(candidates, there, in_any_case)
            twice = next((c for c in candidates if f"{c}#1" in there), None)
            if names[column] is None and twice:
                problems.append(_twice(file, twice))
                names[column] = f"{twice}#1"  # not missing as well
        found.append(FileColumns(header, names))
    problems += [_no_column(files[0], column, found[0]) for column in _lacking(found, how)]
    return found, problems


def _lacking(found: Sequence[FileColumns], how: FileSpec) -> list[str]:
    """What none of the files has is a mistake."""
    columns = dict.fromkeys(c for file in found for c in file.names)
    return [c for c in columns if c not in how.optional_columns and not any(f.names.get(c) for f in found)]


def _called(names: Sequence[str], there: Container[str], in_any_case: Mapping[str, str]) -> str | None:
    """The first of the names that a header has; whatever its case, where none is there as it is written."""
    exact = next((n for n in names if n in there), None)
    return exact or next((in_any_case[n.lower()] for n in names if n.lower() in in_any_case), None)


def _no_column(file: RawFile, column: str, found: FileColumns) -> RawTableError:
    # A first line with nothing like the columns that are read may be a record, which no error may quote.
    alike = any(called or closest(name, found.header) for name, called in found.names.items())
    there = found.header if alike or file.ending == ".parquet" else []
    return RawTableError(
        f"The raw table has no column '{column}'.{closest(column, there)}",
        where=file.where,
        do=f"Correct the cohort spec or the table, or list it under `optional_columns`. {_shown(there)}",
    )


def _shown(header: Sequence[str]) -> str:
    """The columns of a header, for people; unless its line seems to hold data, which no error may quote."""
    if not header or not all(_NAME.match(name) for name in header if name):
        return "Its first line does not look like a header."
    more = f" and {len(header) - _LISTED} more" if len(header) > _LISTED else ""
    return f"Its columns: {', '.join(header[:_LISTED])}{more}."


def _unnamable(files: Sequence[RawFile], column: str) -> RawTableError:
    return RawTableError(
        f"The column '{column}' cannot be read: its name would stand for other columns too.",
        where=files[0].where if files else None,
        do="Rename it in the table.",
    )


def _twice(file: RawFile, column: str) -> RawTableError:
    return RawTableError(
        f"The raw table has the column '{column}' more than once.",
        where=file.where,
        do=f"Say which one is meant under `aliases` ({column}#1 or {column}#2), or mend the table.",
    )
