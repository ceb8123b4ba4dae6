"""Attention over a batch of examples in one sequence, in three ways that give the same states.

| kind | how | where |
|---|---|---|
| `segments` | each example by itself: causal over [x, y], then ỹ over [x, ỹ] | CPU: no work is wasted |
| `flex` | FlexAttention, which skips the blocks that see nothing | GPU; no backward on CPU (torch 2.13) |
| `dense` | one ``[T, T]`` mask | the reference in tests; costs T² whatever the examples are |

transformers hands a mask of four dimensions or a BlockMask through to its attention untouched, and keyword
arguments of the decoder to a registered attention function (5.23).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from ehr_assets.models.batch import Batch, sees, sees_matrix

KINDS = ("segments", "flex", "dense")
SEGMENTS = "ehr_segments"
ROUND = 128
"""FlexAttention's blocks: sequences for it are padded to a multiple."""


def use_attention(model: PreTrainedModel, kind: str) -> None:
    """Sets how the model attends from now on: one of `KINDS`."""
    model.set_attn_implementation({"segments": SEGMENTS, "flex": "flex_attention", "dense": "sdpa"}[kind])


def attention_arguments(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What the decoder must be given so that its attention keeps the batch's examples and parts apart."""
    kind = model.config._attn_implementation
    if kind == SEGMENTS:
        return {"attention_mask": None, "spans": batch}
    if kind == "flex_attention":
        n, device = len(batch), batch.part.device
        return {"attention_mask": create_block_mask(sees(batch), None, None, n, n, device=str(device))}
    return {"attention_mask": sees_matrix(batch)[None, None]}


def attend_by_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    spans: Batch | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' form of an attention function: ``[1, heads, T, size]`` to ``[1, T, heads, size]``."""
    how = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    if spans is None:  # not called by us: rows of one sequence each
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True, **how)
    else:
        mixed = _by_segments(query, key, value, spans, **how)
    return mixed.transpose(1, 2).contiguous(), None


def _by_segments(query: Tensor, key: Tensor, value: Tensor, batch: Batch, **how: Any) -> Tensor:
    """Of ``[1, heads, T, size]``. `split`, not slices: a slice's gradient is as long as the whole."""
    lengths, padding = batch.lengths, len(batch) - sum(batch.lengths)
    cuts = [*lengths, padding] if padding else lengths
    out = []
    for i, (q, k, v) in enumerate(zip(*(t.split(cuts, dim=2) for t in (query, key, value)), strict=True)):
        if i == len(batch.spans) or not batch.copied:
            out.append(scaled_dot_product_attention(q, k, v, is_causal=True, **how))
            continue
        n, m = batch.spans[i].context, batch.spans[i].continuation
        (qx, qy, qc), (kx, ky, kc), (vx, vy, vc) = (t.split([n, m, m], dim=2) for t in (q, k, v))
        qp, kp, vp = (torch.cat(pair, dim=2) for pair in ((qx, qy), (kx, ky), (vx, vy)))
        out.append(scaled_dot_product_attention(qp, kp, vp, is_causal=True, **how))
        k, v = torch.cat((kx, kc), dim=2), torch.cat((vx, vc), dim=2)
        out.append(scaled_dot_product_attention(qc, k, v, attn_mask=copy_sees(n, m, q.device), **how))
    return torch.cat(out, dim=2)


def attend_causally(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """Causal attention within each of several sequences, one behind the other: ``[heads, T, size]``."""
    parts = zip(*(t.split(list(lengths), dim=1) for t in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part, is_causal=True) for part in parts], dim=1)


def copy_sees(context: int, continuation: int, device: torch.device) -> Tensor:
    """What the tokens of ỹ see of [x, ỹ]: ``[continuation, context + continuation]`` bool."""
    whole = torch.ones(continuation, context + continuation, dtype=torch.bool, device=device)
    return whole.tril(diagonal=context)


AttentionInterface.register(SEGMENTS, attend_by_segments)
