"""Errors for people: what is wrong, where, and what to do about it.

Every error that a user can cause is an `EhrError`. The Dagster skins turn it into a `Failure` and the
`ehr` command prints it as it is, so its text must stand alone, and must never carry a raw value or a
subject id.
"""


class EhrError(Exception):
    """An error that a user can act on.

    Args:
        what: one sentence saying what is wrong.
        where: the file, key, table, row or asset it was found in.
        do: what the reader should do next.
    """

    def __init__(self, what: str, *, where: str | None = None, do: str | None = None) -> None:
        self.what, self.where, self.do = what, where, do
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if do:
            lines.append(f"  what to do: {do}")
        super().__init__("\n".join(lines))

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.where, self.do)


def _rebuild(kind: type[EhrError], what: str, where: str | None, do: str | None) -> EhrError:
    return kind(what, where=where, do=do)


class TransientError(EhrError):
    """What may pass by itself: a store, a server or a worker that does not answer just now.

    The one kind of error that is tried again (`resources/retries.py`). Raise it, or a kind that is also this,
    where that is known; bad data, numbers that are none and memory that does not suffice stay as they are.
    """


class SpecError(EhrError):
    """A YAML file (cohort, tasks, corpus, recipe, report) or a setting that cannot be used."""


class RawTableError(EhrError):
    """A raw table that is missing or unreadable as a whole (bad rows are quarantined instead)."""


class MissingTableError(RawTableError):
    """A raw table that is not there, in a root that can be read."""


class UnreachableTableError(RawTableError, TransientError):
    """Raw tables in an object store that does not answer."""


class DatasetError(EhrError):
    """A dataset that is missing, half-written or altered, or that could not be written."""


class StorageError(DatasetError):
    """A store of datasets that refuses: wrong credentials, no such bucket."""


class StorageUnavailableError(StorageError, TransientError):
    """A store that does not answer, or not now: the same may succeed a little later."""


class GateRefusedError(EhrError):
    """An asset refused to start because an upstream check failed or was never run."""


class TrainingError(EhrError):
    """A training run that could not start or had to stop."""


class TrackingError(TrainingError, TransientError):
    """MLflow that cannot be used: its database or server, for tracking or as the registry."""


class LostNodeError(TrainingError, TransientError):
    """A node of a cluster, lost in the middle of a training: the others can go on from its last state."""


class PromotionError(EhrError):
    """A version that may not be promoted, or nothing to roll back to."""
