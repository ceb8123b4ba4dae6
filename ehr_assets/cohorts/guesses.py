"""What the columns of raw tables may mean: subjects, times, codes, values, birth and death, shared keys.

Guesses by name first, by content second; the starter spec (`starter.py`) says of each what to check.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ehr_assets.cohorts.profiles import Column, Profile

_WHO = (
    "subject",
    "person",
    "patient",
    "participant",
    "mrn",
    "pid",
    "member",
    "bcrpatient",
    "case",
    "record",
    "stay",
)
_ID = r"(?:id|uuid|barcode|no|nr|num|number|key|code)?"
_WHOM = re.compile(rf"(?:{'|'.join(_WHO)}){_ID}$|id$")
_ROSTER = re.compile(r"patient|person|subject|demograph|roster|people|participant|member", re.I)
_IDS = re.compile(r"(?:^|_)(?:id|uuid|key|seq|num|barcode|idx|index)(?:_|$)|id$", re.I)
_BIRTH = re.compile(r"birth|^dob$|^yob$|born", re.I)
_DEATH = re.compile(r"death|^dod|died|decease|expire", re.I)
_END = re.compile(r"end|stop|disch|out(?:time|date)?$|finish|until|last", re.I)
_KNOWN = re.compile(
    r"store|result_?(?:date|time)|report|filed|filing|verif|enter|sign|issued|final|avail", re.I
)
_HOUSE = re.compile(r"creat|updat|modif|load|expir|valid_", re.I)
# What a code's column is called, the surest first.
_CODE = (
    r"^code$",
    r"^(?!.*(?:type|source|unit|operator|status|version|place|value|_to_|_from_)).*concept_id$",
    r"itemid",
    r"(?:icd|ndc|loinc|snomed|atc|cpt|hcpcs|drg)(?!.*(?:type|sever|mortal|group))",
    r"code$",
    r"^(?:item|test|drug)",
    r"medication|substance|agent",
    r"param|analyte|vital|lab(?!el)",
    r"diagnos|procedure|condition",
    r"_name$|^name$|label",
    r"service|careunit|department|ward",
    r"category|_type$|^type$|event",
)
_NO_CODE = re.compile(
    r"flag|unit|uom|status|version|priority|comment|provider|location|note|source|seq|poe", re.I
)
_NUMBER = re.compile(
    r"valuenum|value_as_number|^value$|numeric|result(?!_?(?:date|time))|amount|quantity|dose", re.I
)
_VALUE = re.compile(r"value|result|reading|measure|finding", re.I)
_UNIT = re.compile(r"unit|uom", re.I)
_VERSION = re.compile(r"version|vocab|system|_type$", re.I)
# Says who somebody is or where they live: no code, and no event.
_PERSONAL = re.compile(
    r"zip|post(?:al)?_?code|address|street|phone|e_?mail|(?:first|last|given|family|full|patient)_?name|surname|ssn",
    re.I,
)
VISIT = re.compile(r"admission|visit|encounter|stay|transfer|episode", re.I)
_CATEGORY = 60  # different values at most
SECTIONS = (
    ("notes", r"note|letter|text|document"),
    ("death", r"death|decease"),
    ("procedures", r"proc|surg|hcpcs|operat|radiation|device"),
    ("conditions", r"diag|condition|icd|problem|comorb|drg|histor"),
    ("drugs", r"drug|med(?!ia)|presc|pharm|emar|admin|infus|inputevent|vaccin|immuni"),
    ("measurements", r"lab|measure|vital|chart|output|micro|observ.*num|result|omr|record|score"),
)


@dataclass(frozen=True)
class Subjects:
    """roster: the table of all subjects; columns: table → its column of subject ids; single: one row each."""

    roster: Profile
    columns: dict[str, str]
    single: bool
    integer: bool


@dataclass(frozen=True)
class Key:
    """A column that a table shares with another, whose rows it names: `there` is unique in `table`."""

    here: str
    there: str
    table: Profile


def subjects(tables: Sequence[Profile]) -> Subjects | None:
    """Who the subjects are; None where no table has a column of ids that looks like it."""
    named: dict[str, list[tuple[Profile, Column]]] = {}
    for table in tables:
        for column in table.columns.values():
            if column.filled and _WHOM.match(plain(column.name)) and column.kind in ("integer", "text"):
                named.setdefault(plain(column.name), []).append((table, column))
    if not named:
        return None

    def weight(name: str) -> tuple[int, int]:
        rank = next((i for i, who in enumerate(_WHO) if name.startswith(who)), len(_WHO))
        single = any(c.unique for _, c in named[name])
        return (3 if single else 0) + min(len(named[name]), 10) - rank, -len(name)

    name = max(named, key=weight)
    unique = [(t, c) for t, c in named[name] if c.unique]
    roster, column = max(unique or named[name], key=lambda pair: _roster_weight(*pair))
    ids = column.values
    columns = {table.name: c.name for table, c in named[name]}
    for table in tables:
        if table.name not in columns and (other := _by_overlap(table, ids)):
            columns[table.name] = other
    integer = all(re.fullmatch(r"0|-?[1-9]\d{0,18}", i) and abs(int(i)) < 1 << 63 for i in ids)
    return Subjects(roster, columns, bool(unique), integer)


def _roster_weight(table: Profile, column: Column) -> tuple[int, int]:
    told = sum(bool(_BIRTH.search(c) or re.search(r"sex|gender", c, re.I)) for c in table.columns)
    return 2 * bool(_ROSTER.search(table.name)) + told, column.distinct


def _by_overlap(table: Profile, ids: frozenset[str]) -> str | None:
    """A column whose values are mostly ids of the roster, and which is named like it."""
    for column in table.columns.values():
        alike = any(who in plain(column.name) for who in _WHO)
        if alike and column.values and len(column.values & ids) > 0.5 * len(column.values):
            return column.name
    return None


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def section_of(table: Profile) -> str:
    """By the name of the table."""
    return next((s for s, words in SECTIONS if re.search(words, table.name, re.I)), "observations")


@dataclass(frozen=True)
class Moments:
    """Columns of times by what they seem to be; `start` says when an event was."""

    start: Column | None
    day: Column | None  # the same as `start`, to the day only
    end: Column | None
    known: Column | None
    others: list[Column]


def moments(table: Profile) -> Moments:
    """Which column says when."""
    times = [c for c in table.columns.values() if is_time(c) and not _BIRTH.search(c.name)]
    times = [c for c in times if not _HOUSE.search(c.name) and not _DEATH.search(c.name)]
    known = next((c for c in times if _KNOWN.search(c.name)), None)
    ends = [c for c in times if _END.search(c.name) and c is not known]
    starts = [c for c in times if c is not known and c not in ends]
    # Of a day and a moment that say the same, the moment; else the first, as tables are written.
    starts.sort(key=lambda c: (c.filled < 0.5, c.kind == "date"))
    start = next(iter(starts), None) or next(iter(ends), None) or known
    day = next((c for c in starts if start and c.kind == "date" and c is not start), None)
    if (
        day
        and start
        and plain(day.name).removesuffix("date") != re.sub(r"(?:date)?time$", "", plain(start.name))
    ):
        day = None
    end = next((c for c in sorted(ends, key=lambda c: c.kind == "date") if c is not start), None)
    used = [start, day, end, known]
    return Moments(start, day, end, None if known is start else known, [c for c in times if c not in used])


def is_time(column: Column) -> bool:
    return column.kind in ("date", "timestamp")


def clock(table: Profile) -> Column | None:
    """A column of hours and minutes since some beginning."""
    return next((c for c in table.columns.values() if c.kind == "clock"), None)


def birth(table: Profile) -> Column | None:
    named = [c for c in table.columns.values() if _BIRTH.search(c.name) and c.filled > 0.1]
    whole = [c for c in named if is_time(c)]
    years = [c for c in named if c.kind == "integer" and re.search(r"year|^yob", c.name, re.I)]
    return next(iter(whole + years), None)


def death(table: Profile) -> list[Column]:
    """Columns of the time of death, the most exact first; those of which the sample has none last."""
    named = [c for c in table.columns.values() if _DEATH.search(c.name) and (is_time(c) or _undated(c))]
    return sorted(named, key=lambda c: (not c.filled, c.kind != "timestamp"))


def _undated(column: Column) -> bool:
    return column.kind == "empty" and bool(re.search(r"date|time|dod", column.name, re.I))


def code(table: Profile, taken: set[str]) -> Column | None:
    """The column that says what happened."""
    found: list[tuple[int, Column]] = []
    for column in table.columns.values():
        if column.name in taken or column.kind not in ("text", "integer") or not column.filled:
            continue
        if column.unique or column.distinct > 0.7 * table.rows * column.filled or column.letters > 80:
            continue
        rank = next((i for i, word in enumerate(_CODE) if re.search(word, column.name, re.I)), None)
        if rank is not None and not (_NO_CODE.search(column.name) or _PERSONAL.search(column.name)):
            found.append((rank, column))
    if not found:
        return None
    first = re.split(r"[^a-z]", table.name)[0]
    return min(found, key=lambda f: (f[0], not f[1].name.lower().startswith(first), -round(f[1].filled, 1)))[
        1
    ]


def version(table: Profile, of: Column) -> Column | None:
    """The column that says which vocabulary a code is from."""
    head = of.name.split("_")[0]
    for column in table.columns.values():
        alike = column.name.startswith(head) and column is not of and _VERSION.search(column.name)
        if alike and 0 < column.distinct <= 10 and column.filled > 0.9:
            return column
    return None


def value(table: Profile, taken: set[str]) -> tuple[Column | None, Column | None]:
    """The column of values, and the one of texts where there are numbers of their own beside it."""
    free = [c for c in table.columns.values() if c.name not in taken and c.filled and not is_id(c)]
    numbers = [c for c in free if c.numbers > 0.98 and c.kind in ("number", "integer")]
    number = next((c for c in numbers if _NUMBER.search(c.name)), None)
    texts = [c for c in free if _VALUE.search(c.name) and "source" not in c.name.lower()]
    text = next((c for c in texts if c is not number and not is_time(c) and not _UNIT.search(c.name)), None)
    if number and text and text.kind == "text" and plain(text.name) in plain(number.name):
        return number, text
    return (number, None) if number else (text, None)


def unit(table: Profile, value: Column) -> Column | None:
    """The column of the units of a value."""
    for column in table.columns.values():
        if _UNIT.search(column.name) and column.kind == "text" and column.distinct <= 200:
            of = re.sub(r"units?|uom|ofmeasure|sourcevalue|rx", "", plain(column.name))
            if not of or of in plain(value.name):
                return column
    return None


def is_id(column: Column) -> bool:
    return bool(_IDS.search(column.name)) or (column.unique and column.kind == "integer")


def measures(table: Profile, taken: set[str]) -> list[Column]:
    """The numeric columns of a wide table."""
    free = [c for c in table.columns.values() if c.name not in taken and not is_id(c)]
    return [c for c in free if c.kind in ("number", "integer") and c.filled]


def categories(table: Profile, taken: set[str]) -> list[Column]:
    """Columns of a few different words."""
    free = [c for c in table.columns.values() if c.name not in taken and not is_id(c) and c.filled]
    free = [c for c in free if not _PERSONAL.search(c.name)]
    return [c for c in free if c.kind == "text" and c.distinct <= _CATEGORY and c.letters <= 60]


def keys(table: Profile, tables: Sequence[Profile], taken: set[str]) -> list[Key]:
    """Other tables whose rows this one names by a column that is unique there; the best match first."""
    found: list[tuple[float, Key]] = []
    for column in table.columns.values():
        if column.name in taken or column.kind not in ("integer", "text") or not column.filled:
            continue
        for other in tables:
            for there in other.columns.values():
                if other is not table and there.unique and _same_key(column, there):
                    met = len(column.values & there.values) / max(len(column.values), 1)
                    found.append((met, Key(column.name, there.name, other)))
    return [key for _, key in sorted(found, key=lambda f: -f[0])]


def _same_key(here: Column, there: Column) -> bool:
    if there.name.lower() in ("id", "name", "row_id") or not there.values:
        return False
    if here.name == there.name:
        return True
    # condition_concept_id names a concept_id; the values must bear it out.
    return here.name.endswith(f"_{there.name}") and len(here.values & there.values) > 0.2 * len(here.values)


def label(table: Profile, key: str) -> Column | None:
    """The column of a dictionary that says in words what its key means."""
    texts = [c for c in table.columns.values() if c.kind == "text" and c.name != key and c.filled > 0.5]
    named = [c for c in texts if re.search(r"label|title|name|descr|long", c.name, re.I)]
    return max(named or texts, key=lambda c: (c.distinct, c.letters), default=None)
