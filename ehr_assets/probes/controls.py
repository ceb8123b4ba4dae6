"""A control: the bag of codes, which knows what is in a record and nothing of order, time or value.

A model of sequences that is no better than this has read nothing off the sequence. The other control, the
same encoder untrained, is embedded and probed like any recipe.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.probes.features import codes_at_train, columns_of, known_at_nodes, readable_events
from ehr_assets.probes.frames import CohortNodes


def bag_of_codes(meds_dir: Path, nodes: CohortNodes, ledger: FitLedger) -> Any:
    """(n, codes) float32 CSR: log(1 + how often each code that train subjects have was known at the node)."""
    from scipy.sparse import coo_array

    events = readable_events(meds_dir)
    codes = codes_at_train(events, nodes, ledger)["code"].sort().to_list()
    columns = columns_of(codes)
    parts = [
        known.join(columns, on="code").group_by("row", "column").len("times").sort("row", "column")
        for _, known in known_at_nodes(events, nodes)
    ]
    empty = pl.DataFrame(schema={"row": pl.Int64, "column": pl.Int64, "times": pl.UInt32})
    found = pl.concat([empty, *parts])
    at = found["row"].to_numpy(), found["column"].to_numpy()
    log_counts = np.log1p(found["times"].to_numpy().astype(np.float32))
    return coo_array((log_counts, at), shape=(nodes.frame.height, len(codes))).tocsr()
