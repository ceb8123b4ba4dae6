"""The objectives against literal computations."""

import pytest
import torch
from torch import nn

from ehr_assets.models import objectives
from ehr_assets.models.backbone import build_backbone, hidden_states, token_logits
from ehr_assets.models.objectives import OBJECTIVES, SFT, Batch, Trained
from ehr_assets.training import recipe

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_backbone(
        vocab_size=30, intermediate_size=32, max_position_embeddings=64, seed=0, **SIZES
    ).eval()


@pytest.fixture
def batch() -> Batch:
    """Three examples of (context, continuation) lengths (5, 4), (7, 1), (2, 6), padded to 9."""
    ids = torch.randint(1, 30, (3, 9), generator=torch.Generator().manual_seed(1))
    real, continuation = (torch.zeros_like(ids, dtype=torch.bool) for _ in range(2))
    for i, (n, m) in enumerate([(5, 4), (7, 1), (2, 6)]):
        real[i, : n + m] = True
        continuation[i, n : n + m] = True
    return Batch(ids, real, continuation)


def literal_sft(model: nn.Module, batch: Batch) -> float:
    """Equation 4, one example and one token at a time, without padding or masks."""
    losses = []
    for i in range(len(batch.input_ids)):
        n = int((batch.real[i] & ~batch.continuation[i]).sum())
        m = int(batch.continuation[i].sum())
        ids = batch.input_ids[i, : n + m]
        log_p = 0.0
        for t in range(m):
            seen = ids[: n + t].unsqueeze(0)
            logits = token_logits(model, hidden_states(model, seen))[0, -1]
            log_p += torch.log_softmax(logits, dim=-1)[ids[n + t]].item()
        losses.append(-log_p / m)
    return sum(losses) / len(losses)


def test_sft_is_equation_4(model, batch):
    with torch.no_grad():
        assert SFT()(model, batch).item() == pytest.approx(literal_sft(model, batch), rel=1e-5)


def test_sft_does_not_depend_on_padding(model, batch):
    with torch.no_grad():
        before = SFT()(model, batch)
        other = batch.input_ids.clone()
        other[~batch.real] = 7
        after = SFT()(model, Batch(other, batch.real, batch.continuation))
    torch.testing.assert_close(after, before)


def test_sft_learns_from_the_continuation_only(model, batch, monkeypatch):
    """With the hidden states held fixed, context tokens (as labels) change nothing, continuation tokens do;
    and only the positions that predict y get a gradient from the output head."""
    hidden = hidden_states(model, batch.input_ids).detach().requires_grad_()
    monkeypatch.setattr(objectives, "hidden_states", lambda *_: hidden)
    loss = SFT()(model, batch)
    (gradient,) = torch.autograd.grad(loss, hidden)
    predicts_y = torch.zeros_like(batch.continuation)
    predicts_y[:, :-1] = batch.continuation[:, 1:]
    assert torch.equal(gradient.abs().sum(-1) > 0, predicts_y)

    def with_labels_changed(where: torch.Tensor) -> torch.Tensor:
        ids = torch.where(where, (batch.input_ids + 1) % 30, batch.input_ids)
        return SFT()(model, Batch(ids, batch.real, batch.continuation))

    assert torch.equal(with_labels_changed(~batch.continuation), loss)
    assert not torch.equal(with_labels_changed(batch.continuation), loss)


def test_every_example_weighs_the_same(model, batch):
    """Equal shares of examples give the loss of the whole: micro-batches and ranks can be averaged."""
    with torch.no_grad():
        whole = SFT()(model, batch)
        parts = [
            SFT()(model, Batch(batch.input_ids[i], batch.real[i], batch.continuation[i]))
            for i in (slice(0, 1), slice(1, 2), slice(2, 3))
        ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_weighted_sum(model, batch):
    trained = Trained(model, {"sft"})
    with torch.no_grad():
        total, losses = trained(batch, {"sft": 0.25})
    assert set(losses) == {"sft"}
    torch.testing.assert_close(total, 0.25 * losses["sft"])


def test_recipes_may_name_exactly_the_objectives_there_are():
    assert set(recipe.OBJECTIVES) == set(OBJECTIVES)
    assert all(OBJECTIVES[name].name == name for name in OBJECTIVES)
