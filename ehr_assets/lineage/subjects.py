"""Whose records a dataset was made of: a list of salted hashes per dataset, for "was this person in it?".

<home>/provenance/subject_salt                       32 random bytes, of this installation alone
<home>/provenance/subjects/<asset>/<dataset>.parquet role, subject (16 bytes), sorted

The hash is keyed with the salt. Ids are few enough to be tried one by one, so whoever has the salt and a list
can tell who is on it: keep both as private as the data (they are written for their owner alone). Without the
salt a list tells nothing but how many they are. Lists outlive their datasets.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from ehr_assets.errors import DatasetError

Roles = Mapping[str, Mapping[str, Iterable[int]]]
"""What was done with them → cohort → subject ids."""

TRAINED, TUNED, FITTED, EMBEDDED, SCORED = "trained_on", "tuned_on", "fitted_on", "embedded", "scored_on"
"""Weights follow from them; the tuning loss was taken on them; a probe or a tokenizer was fitted or chosen on
them; a state was computed of them; the published numbers are about them."""


SALT_KEY = b"ehr_salt"
"""With each list: which salt it was made with. One made anew finds nobody in the lists of the one before."""


class SubjectLists:
    """The lists under a storage root.

    Args:
        home: the storage root.
    """

    def __init__(self, home: Path) -> None:
        self._salt_file = home / "provenance" / "subject_salt"
        self._folder = home / "provenance" / "subjects"

    def keep(self, dataset: str, roles: Roles) -> None:
        """Writes the list of a dataset, for good.

        Args:
            dataset: its path below the storage root.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        salt = self._salt(make=True)
        rows = sorted(
            {(r, _hashed(salt, c, i)) for r, by in roles.items() for c, ids in by.items() for i in ids}
        )
        names, hashes = ([row[n] for row in rows] for n in (0, 1))
        columns = [pa.array(names, pa.string()).dictionary_encode(), pa.array(hashes, pa.binary(16))]
        file = self._file(dataset)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        os.close(os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600))
        table = pa.table(columns, names=["role", "subject"], metadata={SALT_KEY: _mark(salt)})
        pq.write_table(table, fresh, compression="none")
        fresh.rename(file)

    def has(self, dataset: str) -> bool:
        return self._file(dataset).is_file()

    def roles_of(self, dataset: str, cohort: str, subject: int) -> list[str] | None:
        """The roles that a subject has in a dataset, none if it is not in it.

        None where that cannot be told: there is no list, or it was made with another salt.
        """
        import polars as pl
        import pyarrow.parquet as pq

        if not self.has(dataset):
            return None
        salt = self._salt(make=False)
        mark = (pq.read_schema(self._file(dataset)).metadata or {}).get(SALT_KEY)
        if mark is not None and mark != _mark(salt):
            return None
        wanted = _hashed(salt, cohort, subject)
        rows = pl.scan_parquet(self._file(dataset)).filter(pl.col("subject") == pl.lit(wanted)).collect()
        return sorted(rows["role"].cast(pl.String).to_list())

    def datasets(self) -> Iterator[str]:
        """All datasets that have a list, whether they are still there or not."""
        for file in sorted(self._folder.rglob("*.parquet")):
            yield f"datasets/{file.relative_to(self._folder).with_suffix('').as_posix()}"

    def _file(self, dataset: str) -> Path:
        return self._folder / f"{dataset.removeprefix('datasets/')}.parquet"

    def _salt(self, *, make: bool) -> bytes:
        if make and not self._salt_file.exists():
            self._salt_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._salt_file.with_name(f".{self._salt_file.name}.{os.getpid()}")
            handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.write(handle, os.urandom(32))
            os.close(handle)
            try:
                os.link(fresh, self._salt_file)  # the first of two processes wins
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        try:
            return self._salt_file.read_bytes()
        except FileNotFoundError:
            raise DatasetError(
                "The salt of the subject lists is gone: no list can be searched.",
                where=str(self._salt_file),
                do="Restore it from a backup. Lists cannot be made again of datasets that were collected.",
            ) from None


def of_rows(file: Path, split: str | None = None) -> dict[str, list[int]]:
    """Cohort → the subjects in the rows of a Parquet file (`cohort`, `subject_id`), all or of a split."""
    import polars as pl

    rows = pl.scan_parquet(file)
    rows = rows if split is None else rows.filter(pl.col("split") == split)
    found = rows.select("cohort", "subject_id").unique().group_by("cohort").agg("subject_id").collect()
    return dict(found.iter_rows())


def _mark(salt: bytes) -> bytes:
    """By which two salts are told apart; nothing follows from it about either."""
    return blake2b(b"mark", key=salt, digest_size=8).hexdigest().encode()


def _hashed(salt: bytes, cohort: str, subject: int) -> bytes:
    return blake2b(f"{cohort}\n{int(subject)}".encode(), key=salt, digest_size=16).digest()
