"""Who was left out on the way from the record to the nodes: at which step, and why."""

import polars as pl

from ehr_assets.nodes.frames import FLOW_SCHEMA


class Flow:
    """Counts of subjects and nodes, step by step; what a step takes away and what it leaves add up.

    Before they stand, nodes are triggers that fired. A subject counts as taken away where nothing is left of
    it; nodes that are merged take nobody away.
    """

    def __init__(self, subjects: int) -> None:
        self._left = (subjects, 0)
        self._rows: list[tuple[str, str | None, int, int]] = [("record", None, subjects, 0)]

    def step(self, name: str, left: pl.DataFrame, reason: str) -> None:
        """`left`: the rows (with subject_id) that stand after the step; `reason`: why the others do not."""
        subjects, nodes = left["subject_id"].n_unique(), left.height
        fewer = max(self._left[1] - nodes, 0)  # the first triggers are not fewer than the none before them
        self._rows += [(name, reason, self._left[0] - subjects, fewer), (name, None, subjects, nodes)]
        self._left = (subjects, nodes)

    def table(self) -> pl.DataFrame:
        """Columns of FLOW_SCHEMA, a row for what each step took away before that for what it left."""
        return pl.DataFrame(self._rows, schema=FLOW_SCHEMA.names, orient="row")


def adds_up(flow: pl.DataFrame, nodes: pl.DataFrame) -> bool:
    """Whether each step left what it found less what it took, and the last one `nodes` (with subject_id)."""
    left = flow.filter(pl.col("reason").is_null())
    taken = flow.filter(pl.col("reason").is_not_null())
    whole = left["step"].to_list()[1:] == taken["step"].to_list()
    subjects = (-left["subjects"].diff().drop_nulls()).equals(taken["subjects"])
    # The first step after the record is the one that makes nodes: before it there are none to take away.
    count = (-left["nodes"].diff().slice(2)).equals(taken["nodes"].slice(1))
    end = left.select("subjects", "nodes").row(-1) == (nodes["subject_id"].n_unique(), nodes.height)
    return whole and subjects and count and end
