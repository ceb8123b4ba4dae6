"""What the tables under a root look like, from their first records: files, columns, kinds of values.

Only what can be seen in the data; what it may mean is guessed in `guesses.py`. Raw values stay in memory.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import polars as pl

from ehr_assets.cohorts.batches import FILE, ROW
from ehr_assets.cohorts.cleaning import NUMBER
from ehr_assets.cohorts.dialect import guess_dialect
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, find_files
from ehr_assets.cohorts.headers import headers
from ehr_assets.cohorts.patterns import ending_of, looks_like_table
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.errors import EhrError

SAMPLE_ROWS = 4000
MANY = 5  # from so many files of one kind on, they are taken as one table
_FILES = 8
_COLUMNS = 1000
_MARKER_WORDS = "NA N/A n/a NULL null None none NaN nan ? - -- . Unknown unknown"
MARKERS = frozenset(
    [*_MARKER_WORDS.split(), "[Not Available]", "[Not Applicable]", "[Unknown]", "[Not Evaluated]"]
)
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?"
_ZONE = r"\d(?:Z| ?UTC|[+-]\d{2}:?\d{2})$"
_UNNAMED = re.compile(r"[{}|\x00-\x1f]|^\*$|^\^.*\$$")
_COMPACT = "%Y%m%d"
_DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%b-%Y", "%d%b%Y", "%m/%d/%y", "%d-%m-%Y"),
    _COMPACT,
)
_YYYYMMDD = r"^(?:19|20|21)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$"
_CLOCKS = ("", " %H:%M", " %H:%M:%S", ":%H:%M:%S")
_MOST = 0.98  # of the values must be of a kind


@dataclass(frozen=True)
class Column:
    """One column of the sample.

    Args:
        kind: integer, number, date, timestamp, clock, text or empty.
        filled: share of rows with a value; distinct: different values among them.
        numbers: share of the values that are numbers.
        formats: strptime formats that read it; none for ISO 8601.
        midnight: a timestamp that is always midnight; zoned: with a zone.
        markers: texts in it that mean nothing was recorded.
        letters: mean length of a value.
        values: a few thousand values, to compare columns by.
    """

    name: str
    kind: str
    filled: float
    distinct: int
    unique: bool
    numbers: float = 0.0
    formats: tuple[str, ...] = ()
    midnight: bool = False
    zoned: bool = False
    markers: tuple[str, ...] = ()
    letters: float = 0.0
    values: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class Profile:
    """A table: the `file` of a spec, how it is read, and its columns by name. `problem`: why it cannot be."""

    name: str
    file: str
    files: int
    bytes: int
    how: FileSpec
    rows: int
    columns: Mapping[str, Column]
    in_path: tuple[str, ...] = ()
    problem: str | None = None


def profiles(root: RawRoot) -> list[Profile]:
    """Every table under the root, by path."""
    sizes = root.sizes("", recursive=True)
    tables = [p for p in sizes if looks_like_table(p) and not re.search(r"[{}*\\]", p)]
    found, names = [], set()
    for file, paths in _grouped(tables).items():
        name = _name(file, names)
        names.add(name)
        found.append(_profile(root, name, file, [RawFile(root, p, sizes[p]) for p in paths]))
    return found


def _grouped(paths: Sequence[str]) -> dict[str, list[str]]:
    """`file` of a spec → paths; many files that differ in a number, or in their last word, are one table."""
    stems: dict[str, list[str]] = {}
    for path in paths:
        stems.setdefault(path.removesuffix(ending_of(path)), []).append(path)
    left, out = dict(stems), {}
    for pattern_of in (_by_number, _by_last_word):
        alike: dict[str, list[str]] = {}
        for stem in left:
            if pattern := pattern_of(stem):
                alike.setdefault(pattern, []).append(stem)
        for pattern, members in alike.items():
            if len(members) >= MANY:
                out[pattern] = [path for stem in members for path in left.pop(stem)]
    out |= left
    return dict(sorted(out.items()))


def _by_number(stem: str) -> str | None:
    folder, _, name = stem.rpartition("/")
    if re.fullmatch(r"\d+", name):
        pattern = "{record_id:[0-9]+}"
    elif re.search(r"\d+$", name):
        pattern = re.sub(r"\d+$", "", name) + "{part:[0-9]+}"
    else:
        return None
    return f"{folder}/{pattern}" if folder else pattern


def _by_last_word(stem: str) -> str | None:
    folder, _, name = stem.rpartition("/")
    if not re.search(r".{3,}_[a-z]+$", name):
        return None
    pattern = name.rpartition("_")[0] + "_{part:[a-z]+}"
    return f"{folder}/{pattern}" if folder else pattern


def _name(file: str, taken: set[str]) -> str:
    """A table's name from its file."""

    def words(text: str) -> str:
        text = re.sub(r"\{(\w+)[^}]*\}", "", text)
        text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
        return text if re.match(r"[a-z]", text) else f"t_{text}".strip("_") if text else "records"

    name = words(PurePosixPath(file).name)
    name = name if name not in taken else words(file)
    number = 2
    while name in taken:
        name, number = f"{words(file)}_{number}", number + 1
    return name


def _profile(root: RawRoot, name: str, file: str, files: list[RawFile]) -> Profile:
    size = sum(f.bytes for f in files)
    how = FileSpec(file=file)
    try:
        if len(files) > 1:
            files = find_files(root, file)  # with what their paths say
        step = max(1, len(files) // _FILES)
        chosen = files[::step][:_FILES]
        guesses = [guess_dialect(f) for f in chosen]
        encoding = max((g.encoding for g in guesses), key=len)
        how = guesses[0].model_copy(update={"file": file, "encoding": encoding})
        there = _once([headers(f, how) for f in chosen])[:_COLUMNS]
        in_path = tuple(chosen[0].columns)
        lenient = how.model_copy(update={"optional_columns": there})
        columns = list(dict.fromkeys([*in_path, *there]))
        frame = pl.concat(_first(f, columns, lenient, SAMPLE_ROWS // len(chosen)) for f in chosen)
    except EhrError as e:
        return Profile(name, file, len(files), size, how, 0, {}, problem=e.what)
    frame = frame.drop(FILE, ROW).with_columns(pl.all().str.strip_chars().replace("", None))
    profiled = {c: _column(frame[c]) for c in columns}
    return Profile(name, file, len(files), size, how, frame.height, profiled, in_path)


def _once(headers: list[list[str]]) -> list[str]:
    """Columns that a template can name: not those given twice, without a name, or with blanks around it."""
    named = (n for names in headers for n in names)
    names = dict.fromkeys(n for n in named if n and n == n.strip() and not _UNNAMED.search(n))
    return [n for n in names if all(names.count(n) <= 1 for names in headers)]


def _first(file: RawFile, columns: list[str], how: FileSpec, rows: int) -> pl.DataFrame:
    for batch in read_table([file], columns, how):
        if batch.frame.height:
            return batch.frame.head(rows)
    return pl.DataFrame(schema={FILE: pl.Int32, ROW: pl.Int64, **dict.fromkeys(columns, pl.String)})


def _column(texts: pl.Series) -> Column:
    name, rows = texts.name, texts.len()
    said = texts.drop_nulls()
    markers = sorted(MARKERS & set(said.unique()))
    values = said.filter(~said.is_in(markers)) if markers else said
    if not values.len():
        return Column(name, "empty", 0.0, 0, unique=False, markers=tuple(markers))
    distinct = values.n_unique()
    numbers = _share(values, NUMBER)
    kind, formats = _kind(values, numbers)
    return Column(
        name,
        kind,
        values.len() / rows,
        distinct,
        unique=distinct == values.len() == rows and rows > 1,
        numbers=numbers,
        formats=formats,
        midnight=kind == "timestamp" and bool(values.str.contains(r"[ T]00:00(?::00(?:\.0+)?)?$").all()),
        zoned=kind == "timestamp" and bool(values.str.contains(_ZONE).any()),
        markers=tuple(markers),
        letters=float(values.str.len_chars().sum()) / values.len(),
        values=frozenset(values.unique()),
    )


def _share(values: pl.Series, pattern: str) -> float:
    return float(values.str.contains(pattern).sum()) / values.len()


def _kind(values: pl.Series, numbers: float) -> tuple[str, tuple[str, ...]]:
    def most(pattern: str) -> bool:
        return _share(values, pattern) >= _MOST

    if most(_ISO + r"(?: ?(?:Z|UTC|[+-]\d{2}:?\d{2}))?$"):
        return ("date" if most(r"^.{10}$") else "timestamp"), ()
    if most(r"^\d{1,3}:[0-5]\d(?::[0-5]\d)?$"):
        return "clock", ()
    if not numbers and (formats := _formats(values)):
        return ("date" if formats[0] in _DAYS else "timestamp"), formats
    if numbers >= _MOST:
        if "date" in values.name.lower() and most(_YYYYMMDD):
            return "date", (_COMPACT,)
        return ("integer" if most(r"^[+-]?\d+$") else "number"), ()
    return "text", ()


def _formats(values: pl.Series) -> tuple[str, ...]:
    some = values.head(500)
    if not some.str.contains(r"^\d.*\d$").all():
        return ()
    found = []
    for form in (day + clock for clock in _CLOCKS for day in _DAYS):
        parse = some.str.to_date if form in _DAYS else some.str.to_datetime
        if parse(form, strict=False).null_count() <= (1 - _MOST) * some.len():
            found.append(form)
    return tuple(found)
