"""A small MEDS dataset as lists of rows, to be spoilt in one place before it is written."""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.meds.frames import MEDS_SCHEMA

DAY = datetime(2020, 1, 1)
SUBJECTS = {"train": range(1, 21), "tuning": range(21, 25), "held_out": range(25, 29)}


def row(subject, day=0.0, code="LAB//1", value=None, *, text=None, later=0.0, section="measurements"):
    time = DAY + timedelta(days=day)
    known = time + timedelta(days=later)
    return [subject, time, code, value, text, known, section]


def static(subject, section="demographics"):
    return [subject, None, "GENDER//F", None, None, None, section]


def record(subject: int) -> list[list]:
    """A person born long ago with labs of two codes over two months, who dies in the end."""
    labs = [row(subject, i, f"LAB//{i % 2}", 100.0 + (7 * i + subject) % 10, later=0.1) for i in range(60)]
    born = row(subject, -10_000, "MEDS_BIRTH", section="demographics")
    return [static(subject), born, *labs, row(subject, 70, "MEDS_DEATH", section="death")]


class Frame:
    """A MEDS dataset as lists of rows per file; `edit`ed before it is written."""

    def __init__(self) -> None:
        self.files = {f"{s}/0": [r for i in ids for r in record(i)] for s, ids in SUBJECTS.items()}
        self.codes = ["GENDER//F", "MEDS_BIRTH", "MEDS_DEATH", "LAB//0", "LAB//1"]
        self.splits = {i: s for s, ids in SUBJECTS.items() for i in ids}
        self.schema = MEDS_SCHEMA

    def add(self, *rows: list, file: str = "train/0") -> None:
        """Adds rows where the order wants them."""
        self.files[file] = sorted(
            [*self.files.get(file, []), *rows],
            key=lambda r: (r[0] is not None, r[0] or 0, r[1] is not None, r[1] or DAY),
        )

    def write(self, root: Path) -> Path:
        for name, rows in self.files.items():
            path = root / "data" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = list(zip(*rows, strict=True)) or [[] for _ in MEDS_SCHEMA]
            table = pa.table(
                [pa.array(c, f.type) for c, f in zip(columns, MEDS_SCHEMA, strict=True)], MEDS_SCHEMA.names
            )
            pq.write_table(table.cast(self.schema), path, row_group_size=500)
        (root / "metadata").mkdir()
        codes = pa.table({"code": self.codes, "description": pa.nulls(len(self.codes), pa.string())})
        pq.write_table(codes, root / "metadata" / "codes.parquet")
        ids, splits = list(self.splits), list(self.splits.values())
        pq.write_table(
            pa.table({"subject_id": ids, "split": splits}), root / "metadata" / "subject_splits.parquet"
        )
        return root
