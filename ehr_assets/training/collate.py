"""Examples to the batch that the networks take."""

from collections.abc import Sequence

import numpy as np
import torch

from ehr_assets.models.batch import CONTEXT, CONTINUATION, COPY, PADDING, Batch, Span
from ehr_assets.training.cutting import Example


def collate(examples: Sequence[Example], pad: int, multiple: int = 1) -> Batch:
    """Lays examples one behind the other: no padding between them.

    Args:
        examples: all with hidden tokens, or none.
        pad: the token id behind the last one, up to the next `multiple` (FlexAttention's blocks).
    """
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
    padding = -sum(lengths) % multiple
    return Batch(
        _tensor(ids, np.full(padding, pad)),
        _tensor(position, np.arange(padding)),
        _tensor(part, np.full(padding, PADDING)),
        _tensor([np.repeat(np.arange(len(examples)), lengths)], np.full(padding, PADDING)),
        _tensor(hidden, np.zeros(padding, bool)),
        spans,
        copied,
    )


def _tensor(parts: list[np.ndarray], padding: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([*parts, padding.astype(parts[0].dtype)]))
