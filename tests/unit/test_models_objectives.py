"""The objectives against literal computations."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ehr_assets.models.attention import use_attention
from ehr_assets.models.backbone import build_backbone
from ehr_assets.models.batch import CONTINUATION, Batch
from ehr_assets.models.objectives import OBJECTIVES, SFT, States, mean_by_example
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.statistics import TargetStatistics
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training import recipe_parts
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import Example

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
LENGTHS = ((5, 4), (7, 1), (2, 6))


@pytest.fixture(scope="module")
def model() -> WorldModel:
    backbone = build_backbone(
        vocab_size=30, intermediate_size=32, max_position_embeddings=64, seed=0, **SIZES
    )
    use_attention(backbone, "segments")
    return WorldModel(backbone).eval()


@pytest.fixture
def examples() -> list[Example]:
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 30, (n + m,), generator=draw).numpy() for n, m in LENGTHS]
    return [Example(i, n, i) for i, (n, _) in zip(ids, LENGTHS, strict=True)]


def literal_sft(model: WorldModel, e: Example) -> float:
    """Equation 4, one token at a time."""
    ids, n, log_p = torch.from_numpy(e.token_ids), e.n_context, 0.0
    for t in range(e.n_continuation):
        logits = model.backbone(input_ids=ids[None, : n + t]).logits[0, -1]
        log_p += torch.log_softmax(logits, dim=-1)[ids[n + t]].item()
    return -log_p / e.n_continuation


def test_sft_is_equation_4(model, examples):
    with torch.no_grad():
        losses = model(collate(examples), {"sft": 1.0}).by_example["sft"]
        assert losses.tolist() == pytest.approx([literal_sft(model, e) for e in examples], rel=1e-5)


def test_sft_learns_from_the_continuation_only(model, examples):
    """With the states held fixed, context tokens (as labels) change nothing, continuation tokens do; and
    only the positions that predict y get a gradient from the output head."""
    batch = collate(examples)
    states = torch.randn(len(batch), 16, requires_grad=True)
    head = nn.Linear(16, 30)

    def nll(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(head(hidden), labels, reduction="none")

    def loss(batch: Batch) -> torch.Tensor:
        return SFT()(States(states, None, nll), batch).sum()

    (gradient,) = torch.autograd.grad(loss(batch), states)
    y = batch.part == CONTINUATION
    assert torch.equal(gradient.abs().sum(-1) > 0, torch.cat([y[1:], torch.tensor([False])]))

    def with_labels_changed(where: torch.Tensor) -> torch.Tensor:
        ids = torch.where(where, (batch.token_ids + 1) % 30, batch.token_ids)
        return loss(Batch(**{**vars(batch), "token_ids": ids}))

    assert torch.equal(with_labels_changed(~y), loss(batch))
    assert not torch.equal(with_labels_changed(y), loss(batch))


def test_the_total_is_the_weighted_sum(model, examples):
    batch = collate(examples)
    with torch.no_grad():
        found = model(batch, {"sft": 0.25})
    torch.testing.assert_close(found.total, 0.25 * found.by_example["sft"].sum())


def test_every_example_weighs_the_same():
    values, example = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1])
    assert mean_by_example(values, example, 2).tolist() == [2.0, 10.0]


def test_recipes_may_name_exactly_the_objectives_there_are():
    assert set(recipe_parts.OBJECTIVES) == set(OBJECTIVES)
    assert all(OBJECTIVES[name].name == name for name in OBJECTIVES)


def test_the_papers_predictor_is_the_mlp():
    """A.1: "~67M parameters" beside an 8 B model (hidden size 4,096): the MLP of Table 7's size."""
    with torch.device("meta"):
        sizes = {
            kind: sum(p.numel() for p in build_predictor(kind, 4096, 4096, 2, 8).parameters())
            for kind in ("mlp", "transformer")
        }
    assert sizes["mlp"] == pytest.approx(67e6, rel=0.01)
    assert sizes["transformer"] == pytest.approx(436e6, rel=0.01)


def test_the_predictor_sees_its_own_example_up_to_itself():
    torch.manual_seed(0)
    predictor = build_predictor("transformer", 8, 8, 2, 2).eval()
    states = torch.randn(7, 8)
    with torch.no_grad():
        want = predictor(states, [4, 3])
        for changed, reached in ((2, [2, 3]), (4, [4, 5, 6]), (6, [6])):
            other = states.clone()
            other[changed] += 1
            differs = (predictor(other, [4, 3]) - want).abs().amax(-1) > 1e-6
            assert differs.nonzero().flatten().tolist() == reached


def test_statistics_tell_collapse_from_spread():
    draw = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, 6, generator=draw)
    line = torch.randn(4000, 1, generator=draw) * torch.ones(6)
    found = {}
    for name, states in {"spread": spread, "line": line, "point": torch.ones(4000, 6)}.items():
        statistics = TargetStatistics(6)
        statistics.add(states[:1000], states[:1000])
        statistics.add(-states[1000:], states[1000:])
        found[name] = statistics.result()
    assert found["spread"]["effective_rank"] == pytest.approx(6, rel=0.01)
    assert found["line"]["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert found["spread"]["std"] == pytest.approx(1, rel=0.03)
    assert found["point"]["std"] == pytest.approx(0, abs=1e-6)
    assert found["spread"]["cosine"] == pytest.approx(0.25 - 0.75)
