"""Which tokens S(t) is computed from: the window of `corpora/reader.py`, or one that begins on a grid.

Windows of a record that has outgrown `max_tokens` all begin elsewhere, and then no two nodes share a pass.
An anchored window begins a little later than it could: at the next of a few places that neighbours share.
"""

from dataclasses import dataclass

import numpy as np

from ehr_assets.corpora.reader import Instant, Record, event_boundary, window


@dataclass(frozen=True)
class Windows:
    """How windows are laid over records.

    Args:
        max_tokens: of a window, at most; at least 2.
        anchor: the grid's step, as a share (0 to 0.5) of the tokens that a window has for events. 0: none.
    """

    max_tokens: int
    anchor: float = 0.0

    def at(self, record: Record, t: Instant) -> np.ndarray:
        """Positions (int64, ascending) of the tokens read at t. The last one is the newest token known at t.

        The grid is counted from the record's first timed token, and only tokens known at t are looked at:
        what comes later moves no window. From the grid's next place on, the window begins with the first
        whole event; where that is more than half a step away, and in a text with versions (no text of which
        is the beginning of another), it begins where it could.
        """
        shown = window(record, t, self.max_tokens)
        n_head = int(np.searchsorted(shown, record.n_demographics))
        whole = n_head == len(shown) or shown[n_head] == record.n_demographics
        if not self.anchor or whole or record.until is not None:
            return shown
        step = max(1, int(self.anchor * (self.max_tokens - n_head)))
        body = np.arange(record.n_demographics, shown[-1] + 1)
        grid = -(-(int(shown[n_head]) - record.n_demographics) // step) * step
        start = event_boundary(record, body, grid)
        if start is None or start - grid > step // 2:
            return shown
        return np.concatenate([shown[:n_head], body[start:]])
