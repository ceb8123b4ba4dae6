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
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from ehr_assets.models.batch import CONTEXT, CONTINUATION, Batch, sees, sees_matrix

KINDS = ("segments", "flex", "dense")
SEGMENTS = "ehr_segments"
ROUND = 128
"""Tokens of a FlexAttention block: sequences for it are padded to a multiple."""


def use_attention(model: PreTrainedModel, kind: str) -> None:
    """Sets how the model attends from now on: one of `KINDS`."""
    model.set_attn_implementation({"segments": SEGMENTS, "flex": "flex_attention", "dense": "sdpa"}[kind])


def laid_out(model: PreTrainedModel, batch: Batch) -> Batch:
    """The batch in the length that the model's attention wants: padding may follow."""
    return batch.padded(ROUND) if model.config._attn_implementation == "flex_attention" else batch


def attention_arguments(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What the decoder must be given so that its attention keeps the batch's examples and parts apart.

    Args:
        batch: as `laid_out`.
    """
    kind = model.config._attn_implementation
    if kind == SEGMENTS:
        return {"attention_mask": None, "spans": batch}
    if kind == "flex_attention":
        return {"attention_mask": block_mask(batch)}
    return {"attention_mask": sees_matrix(batch)[None, None]}


def block_mask(batch: Batch) -> BlockMask:
    """The rule of attention for FlexAttention, of a batch padded to whole blocks.

    Which blocks see which is told by the extremes of what they hold. torch's `create_block_mask` asks the
    rule of every pair of tokens: 10 bytes for each, some 30 GB for 13 examples of 3,300 tokens.
    """
    example = batch.example % (len(batch.spans) + 1)  # of padding, the last
    (e0, e1), (p0, p1), (x0, x1) = (_extremes(values) for values in (example, batch.part, batch.position))
    at = torch.arange(len(e0), device=e0.device)
    # Rows are queries, columns are keys. One: a block that holds but one part, or one example.
    (one_q, one_k), (p_q, p_k) = ((values[:, None], values) for values in (p0 == p1, p0))
    none_of_mine = one_q & one_k & (p_k != CONTEXT) & (p_k != p_q)
    some = (at <= at[:, None]) & (e0[:, None] <= e1) & (e0 <= e1[:, None]) & ~none_of_mine
    same = (e0 == e1)[:, None] & (e0 == e1) & (e0 == e0[:, None])
    all_mine = (p1 == CONTEXT) | one_q & (one_k & (p_k == p_q) | (p_q == CONTINUATION) & (p1 <= CONTINUATION))
    whole = same & all_mine & (x1 <= x0[:, None])
    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=ROUND,
        mask_mod=sees(batch),
        seq_lengths=(len(batch), len(batch)),
    )


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest of each block."""
    blocks = values.view(-1, ROUND)
    return blocks.amin(dim=1), blocks.amax(dim=1)


def _listed(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row: how many columns are seen, and these first."""
    order = seen.int().argsort(dim=-1, descending=True, stable=True)
    return seen.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


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
    out = []
    examples = zip(*(t.split(batch.lengths, dim=2) for t in (query, key, value)), strict=True)
    for span, (q, k, v) in zip(batch.spans, examples, strict=True):
        if not batch.copied:
            out.append(scaled_dot_product_attention(q, k, v, is_causal=True, **how))
            continue
        n, m = span.context, span.continuation
        (qx, qy, qc), (kx, ky, kc), (vx, vy, vc) = (t.split([n, m, m], dim=2) for t in (q, k, v))
        qp, kp, vp = (torch.cat(pair, dim=2) for pair in ((qx, qy), (kx, ky), (vx, vy)))
        out.append(scaled_dot_product_attention(qp, kp, vp, is_causal=True, **how))
        k, v = torch.cat((kx, kc), dim=2), torch.cat((vx, vc), dim=2)
        out.append(scaled_dot_product_attention(qc, k, v, attn_mask=copy_sees(n, m, q.device), **how))
    return torch.cat(out, dim=2)


def attend_causally(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """Causal attention within each of several sequences, one behind the other: ``[heads, T, size]``."""
    # Of four dimensions: torch has no fused kernel for three.
    parts = zip(*(t[None].split(list(lengths), dim=2) for t in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part, is_causal=True) for part in parts], dim=2)[0]


def copy_sees(context: int, continuation: int, device: torch.device) -> Tensor:
    """What the tokens of ỹ see of [x, ỹ]: ``[continuation, context + continuation]`` bool."""
    whole = torch.ones(continuation, context + continuation, dtype=torch.bool, device=device)
    return whole.tril(diagonal=context)


AttentionInterface.register(SEGMENTS, attend_by_segments)
