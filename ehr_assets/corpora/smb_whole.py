"""Lines of the smb text that must be compared as whole texts: which of them is read when.

Two lines of one section and date may read alike although their names differ (`A: 1.00` without a value, and
`A` with that value), and of lines that read alike only the first is shown. A line of a name with several
units reads otherwise as soon as its last value has another. Such lines are written out again whenever a row
of theirs becomes known, and only then.
"""

from bisect import insort
from collections.abc import Callable, Iterable

import numpy as np

from ehr_assets.corpora.smb_names import Names
from ehr_assets.corpora.smb_rows import LAST_VALUES, NEVER, NO_DAY, Rows, birth_text


def whole_lines(
    cells: Iterable[np.ndarray],
    rows: Rows,
    names: Names,
    value_of: Callable[[int], str],
    texts: list[str],
) -> np.ndarray:
    """The lines of some sections and dates, as they are read.

    Args:
        cells: positions in `rows`, by section and date.
        rows, names, value_of: as `smb_lines.lay_lines` has them.
        texts: the lines' texts are appended.

    Returns:
        int64 [lines, 4]: position of the row that gives the line its place, start, end, position in `texts`.
    """
    lines: list[tuple[int, int, int, int]] = []
    for positions in cells:
        for head, text, start, end in _Cell(rows, names, value_of).lives(positions):
            lines.append((head, start, end, len(texts)))
            texts.append(text)
    return np.array(lines, np.int64).reshape(-1, 4)


class _Cell:
    """The lines of one section and date while its rows become known, one moment after the other."""

    def __init__(self, rows: Rows, names: Names, value_of: Callable[[int], str]) -> None:
        self.rows, self.names, self.value_of = rows, names, value_of
        self._known: dict[int, list[int]] = {}  # by name, positions in the order of the text
        self._valued: dict[int, list[int]] = {}
        self._reads: dict[int, tuple[str, int]] = {}  # by name, its text and the place of it
        self._places: dict[str, list[int]] = {}  # by text, the places of lines that read so
        self._open: dict[str, tuple[int, int]] = {}  # by text, the place where it is shown, and since when

    def lives(self, positions: np.ndarray) -> list[tuple[int, str, int, int]]:
        """(place, text, start, end) of every line that is ever shown."""
        found: list[tuple[int, str, int, int]] = []
        available = self.rows.available[positions]
        order = np.argsort(available, kind="stable")
        moments, first = np.unique(available[order], return_index=True)
        for moment, rows in zip(moments.tolist(), np.split(positions[order], first[1:]), strict=True):
            for text in self._learn(rows.tolist()):
                places = self._places[text]
                place, since = self._open.get(text, (None, moment))
                if places and places[0] == place:
                    continue
                if place is not None:
                    found.append((place, text, since, moment))
                    del self._open[text]
                if places:
                    self._open[text] = (places[0], moment)
        return found + [(place, text, since, NEVER) for text, (place, since) in self._open.items()]

    def _learn(self, positions: list[int]) -> list[str]:
        """Takes rows in that became known together; gives the texts that some line reads, or no more."""
        names = dict.fromkeys(int(self.rows.name[p]) for p in positions)
        for p in positions:
            name = int(self.rows.name[p])
            insort(self._known.setdefault(name, []), p)
            if self.rows.valued[p]:
                insort(self._valued.setdefault(name, []), p)
        touched: dict[str, None] = {}
        for name in names:
            now = (self._text(name), self._known[name][0])
            before = self._reads.get(name)
            if now == before:
                continue
            if before:
                self._places[before[0]].remove(before[1])
                touched[before[0]] = None
            self._reads[name] = now
            insort(self._places.setdefault(now[0], []), now[1])
            touched[now[0]] = None
        return list(touched)

    def _text(self, name: int) -> str:
        """The line of a name, from what is known of it."""
        day = int(self.rows.birth_day[self._known[name][0]])
        if day != NO_DAY:
            return birth_text(day)
        if not (valued := self._valued.get(name)):
            return self.names.texts[name]
        unit = self.names.unit_texts[self.rows.unit[valued[-1]]]
        return f"{self.names.texts[name]}{unit}: {', '.join(map(self.value_of, valued[-LAST_VALUES:]))}"
