"""Examples to the batch that the networks take."""

from collections.abc import Sequence

import numpy as np
import torch

from ehr_assets.models.batch import CONTEXT, CONTINUATION, COPY, Batch, Span
from ehr_assets.training.cutting import Example


def collate(examples: Sequence[Example]) -> Batch:
    """Lays examples, all with hidden tokens or none, one behind the other: no padding between them."""
    copied = examples[0].hidden is not None
    ids, position, part, hidden = [], [], [], []
    for e in examples:
        n, m = e.n_context, e.n_continuation
        places = np.arange(n + m)
        masked = e.hidden if copied else None
        assert (e.hidden is None) is not copied, "examples with and without hidden tokens in one batch"
        ids += [e.token_ids] if masked is None else [e.token_ids, e.token_ids[n:]]
        position += [places] if masked is None else [places, places[n:]]
        part += [np.full(n, CONTEXT), np.full(m, CONTINUATION)]
        hidden.append(np.zeros(n + m, bool))
        if masked is not None:
            part.append(np.full(m, COPY))
            hidden.append(masked)
    spans = tuple(Span(e.n_context, e.n_continuation) for e in examples)
    lengths = [s.plain + (s.continuation if copied else 0) for s in spans]
    return Batch(
        torch.from_numpy(np.concatenate(ids)),
        torch.from_numpy(np.concatenate(position)),
        torch.from_numpy(np.concatenate(part)),
        torch.from_numpy(np.repeat(np.arange(len(examples)), lengths)),
        torch.from_numpy(np.concatenate(hidden)),
        spans,
        copied,
    )
