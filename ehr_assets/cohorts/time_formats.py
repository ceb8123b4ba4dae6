"""What a strptime format tells: whether a day can be read off it, and whether a time of day.

Light: specs are checked with it when the definitions load; `meds/times.py` reads texts by the formats. The
directives are those of chrono, which polars parses with, so far as each of them has one meaning.
"""

import re

_DIRECTIVE = re.compile(r"%(?P<zone>:{0,3}z|#z|Z|\+)|%[-_0]?(?P<name>\.?[369]?f|[A-Za-z%])|%")
# What each directive tells: Y year, m month, d day, j day of the year, G year of the week V or (of Y) U or W,
# u day of the week, H hour, I hour of p half a day, M minute, S second, f its fraction.
_TELLS = {name: name for name in "YmdjGVUWuHIpMSf"}
_TELLS |= {"y": "Y", "b": "m", "B": "m", "h": "m", "e": "d", "w": "u", "k": "H", "l": "I", "P": "p"}
_TELLS |= {"F": "Ymd", "D": "Ymd", "x": "Ymd", "v": "Ymd", "c": "YmdHMS", "s": "YmdHMS"}
_TELLS |= {"T": "HMS", "X": "HMS", "R": "HM", "r": "IMSp"}
_TELLS |= dict.fromkeys("aAnt%", "")
_DAYS = ("Ymd", "Yj", "GVu", "YUu", "YWu")


def told(form: str) -> set[str]:
    """Letters for what the format tells (see `_TELLS`).

    Raises:
        ValueError: a directive that is none, or one of a zone.
    """
    found: set[str] = set()
    for directive in _DIRECTIVE.finditer(form):
        name = directive["name"]
        if directive["zone"]:
            raise ValueError(f"'{form}' has a zone: zones are understood in ISO 8601 only, without a format")
        if not name or name.lstrip(".369") not in _TELLS:
            raise ValueError(f"'{form}': {directive[0]} is no directive that is known here")
        found.update(_TELLS[name.lstrip(".369")])
    return found


def has_clock(form: str) -> bool:
    """Whether the format tells the time of day, not the day alone."""
    return bool(told(form) & {"H", "I"})


def checked_format(form: str) -> str:
    """The format. ValueError where a text of it would be no moment, or one of another kind than it seems."""
    found = told(form)
    if not any(found.issuperset(day) for day in _DAYS):
        raise ValueError(f"'{form}' tells no day: what has none is read from `year` and `month` columns")
    clock = found & set("HIpMSf")
    if clock and clock - set("Sf") not in ({"H", "M"}, {"I", "p", "M"}):
        raise ValueError(
            f"'{form}' tells half a time of day: it needs hour (%H, or %I with %p) and minute (%M)"
        )
    return form
