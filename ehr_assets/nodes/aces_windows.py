"""When the windows of an ACES file begin and end, reckoned from its trigger."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ehr_assets.nodes.aces_predicates import UnfitError
from ehr_assets.nodes.aces_spec import Window, duration


@dataclass(frozen=True)
class At:
    """A moment: so long after the trigger; None = the beginning of the record."""

    after: timedelta | None


@dataclass(frozen=True)
class Next:
    """The next event of a predicate after a moment."""

    predicate: str
    since: At


class Windows:
    """The windows of one file by name. Every method raises UnfitError for what has no counterpart here."""

    def __init__(self, windows: Mapping[str, Window]) -> None:
        self._all = windows

    def moment(self, name: str, side: str, asked: tuple[str, ...] = ()) -> At | Next:
        """Where a window starts or ends."""
        key = f"windows.{name}.{side}"
        if name not in self._all:
            raise UnfitError(" → ".join(asked) or key, f"there is no window '{name}'")
        if key in asked:
            raise UnfitError(key, "windows refer to one another in a circle")
        text = getattr(self._all[name], side)
        if text is None:
            if side == "start":
                return At(None)
            raise UnfitError(key, "a window to the end of the record has no horizon")
        if "<-" in text:
            raise UnfitError(key, "a window bounded by an earlier event (<-) cannot be expressed")
        base, arrow, predicate = (part.strip() for part in text.partition("->"))
        match = re.fullmatch(r"([\w.]+)\s*(?:([+-])\s*(.+))?", base)
        if not match:
            raise UnfitError(key, f"'{text}' cannot be read")
        reference, sign, length = match.groups()
        at = self._reference(reference, name, key, asked)
        if not isinstance(at, At) or (at.after is None and (sign or arrow)):
            raise UnfitError(key, "it is reckoned from an event other than the trigger")
        if sign and at.after is not None:
            try:
                step = duration(length)
            except ValueError as e:
                raise UnfitError(key, str(e)) from None
            at = At(at.after + step if sign == "+" else at.after - step)
        return Next(predicate, at) if arrow else at

    def _reference(self, reference: str, name: str, key: str, asked: tuple[str, ...]) -> At | Next:
        if reference == "trigger":
            return At(timedelta(0))
        if reference in ("start", "end"):
            return self.moment(name, reference, (*asked, key))
        window, _, side = reference.partition(".")
        if side not in ("start", "end"):
            raise UnfitError(key, f"'{reference}' is neither the trigger nor the start or end of a window")
        return self.moment(window, side, (*asked, key))

    def span(self, name: str, key: str) -> tuple[timedelta | None, timedelta]:
        """From when to when, of a window at fixed times from the trigger; None: from the first record on."""
        start, end = self.moment(name, "start"), self.moment(name, "end")
        if not isinstance(start, At) or not isinstance(end, At) or end.after is None:
            raise UnfitError(key, "the window must lie at fixed times from the trigger")
        return start.after, end.after

    def only_one_with(self, key: str, what: str) -> tuple[str, Window]:
        """The name of the one window that has the key, and the window. `what`: the key in words."""
        found = {name: w for name, w in self._all.items() if getattr(w, key) is not None}
        if len(found) != 1:
            raise UnfitError("windows", f"exactly one must have {what}; {len(found)} do")
        return next(iter(found.items()))
