"""The fused step against the paper's two passes (SMB §3.3.3), written out literally here."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from ehr_assets.models.attention import KINDS, ROUND, block_mask, use_attention
from ehr_assets.models.backbone import build_backbone, causal_lm, with_lora
from ehr_assets.models.batch import COPY, sees_matrix
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import Example
from ehr_assets.training.suitable import unsuitable

HIDDEN, VOCABULARY = 32, 40
BOTH = {"sft": 1.0, "jepa": 0.7}


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
HEADS = {"head_dim": 8, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
FAMILIES = {
    "llama3": lambda: LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=False, rope_theta=500_000.0),
    "qwen3 untied": lambda: Qwen3Config(**SIZES, **HEADS, tie_word_embeddings=False),
    "mistral": lambda: MistralConfig(**SIZES, **HEADS, sliding_window=None),
    "gemma": lambda: GemmaConfig(**SIZES, **HEADS),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **HEADS, sliding_window=64),
}


def make_model(kind: str, attention: str = "segments", family: str | None = None) -> WorldModel:
    if family is None:
        backbone = build_backbone(**SIZES, seed=1)
    else:
        torch.manual_seed(1)
        backbone = AutoModelForCausalLM.from_config(FAMILIES[family]())
    torch.manual_seed(2)
    adapted = with_lora(backbone, r=4, alpha=8, dropout=0.0, trainable_tokens=range(1, 17), base_name="none")
    for name, p in adapted.named_parameters():
        if "lora_B" in name:  # zero at first: the target encoder would be the online one
            nn.init.normal_(p, 0, 0.05)
    model = WorldModel(adapted, build_predictor(kind, HIDDEN, HIDDEN, 2, 4))
    use_attention(causal_lm(adapted), attention)
    return model.train()


def make_examples(lengths=((9, 5), (4, 1), (12, 8)), seed=0) -> list[Example]:
    rng, out = np.random.default_rng(seed), []
    for n, m in lengths:
        hidden = np.zeros(m, bool)
        hidden[rng.permutation(m)[: max(1, m // 2)]] = True
        ids = rng.integers(1, VOCABULARY, n + m)
        out.append(Example(ids, n, np.arange(n + m, dtype=np.int32), hidden))
    return out


def moved_target(model: WorldModel) -> TargetEncoder:
    """A target encoder that is not the online one."""
    target = TargetEncoder(model.backbone, model.trained_encoder(), 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for average in target.average.values():
            average += 0.02 * torch.randn_like(average)
    return target


def literal(model: WorldModel, examples: list[Example], target: TargetEncoder) -> dict[str, Tensor]:
    """Both passes of each example by itself, with transformers' own causal mask."""
    lm = causal_lm(model.backbone)
    lm.set_attn_implementation("eager")
    embed, decoder, head = lm.get_input_embeddings(), lm.base_model, lm.get_output_embeddings()
    sft, jepa = [], []
    for e in examples:
        ids, n = torch.from_numpy(e.token_ids)[None], e.n_context
        hidden = decoder(input_ids=ids).last_hidden_state[0]
        sft.append(cross_entropy(head(hidden[n - 1 : -1]), ids[0, n:]))
        where = torch.from_numpy(np.r_[np.zeros(n, bool), e.hidden])
        masked = torch.where(where[None, :, None], model.mask_token, embed(ids))
        states = decoder(inputs_embeds=masked).last_hidden_state[0]
        with target.in_place():
            targets = decoder(input_ids=ids).last_hidden_state[0]
        predicted = model.objectives["jepa"].predictor(states, [len(states)])
        jepa.append(mse_loss(predicted[where], targets[where]))
    return {"sft": torch.stack(sft), "jepa": torch.stack(jepa)}


def fused(model: WorldModel, examples: list[Example], target: TargetEncoder):
    batch = collate(examples)
    with target.in_place():
        states = model.encode(batch.unmasked())
    return model(batch, BOTH, states)


def gradients(model: WorldModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "attention"), itertools.product(("transformer", "mlp"), ("segments", "dense"))
)
@pytest.mark.parametrize("packed", [True, False])
def test_losses_and_gradients_are_those_of_two_passes(kind, attention, packed):
    model, examples = make_model(kind, attention), make_examples()
    target = moved_target(model)
    groups = [examples] if packed else [[e] for e in examples]
    parts = [fused(model, group, target) for group in groups]
    mine = gradients(model, torch.stack([p.total for p in parts]).sum())
    losses = literal(model, examples, target)
    total = sum(BOTH[name] * loss.sum() for name, loss in losses.items())
    theirs = gradients(model, total)
    for name, loss in losses.items():
        ours = torch.cat([p.by_example[name] for p in parts])
        torch.testing.assert_close(ours, loss.detach(), rtol=1e-5, atol=1e-6)
    assert mine.keys() == theirs.keys()
    assert {"mask_token"} < mine.keys()
    for name, gradient in theirs.items():
        error = (mine[name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_so_in_other_families(family):
    model, examples = make_model("transformer", family=family), make_examples()
    assert not unsuitable(causal_lm(model.backbone).config.to_dict(), max_tokens=64)
    target = moved_target(model)
    losses = fused(model, examples, target)
    mine = gradients(model, losses.total)
    want = literal(model, examples, target)
    theirs = gradients(model, sum(BOTH[name] * loss.sum() for name, loss in want.items()))
    for name, loss in want.items():
        torch.testing.assert_close(losses.by_example[name], loss.detach(), rtol=1e-5, atol=1e-6)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (mine[name] - gradient).norm() < 1e-5 * gradient.norm(), name


def test_the_rule_of_attention_is_as_told():
    """x sees x; y sees x and y; ỹ sees x and ỹ; nobody sees another example, or what comes later."""
    batch = collate(make_examples(((2, 2), (1, 1)))).padded(4)
    seen = sees_matrix(batch)
    as_text = ["".join("x" if v else "." for v in row) for row in seen.tolist()]
    assert as_text == [
        "x...........",
        "xx..........",
        "xxx.........",
        "xxxx........",
        "xx..x.......",
        "xx..xx......",
        "......x.....",
        "......xx....",
        "......x.x...",
        ".........x..",
        ".........xx.",
        ".........xxx",
    ]


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_flex_attentions_blocks_are_those_of_the_rule(seed, copied):
    """None is missing, whole ones are whole, and hardly any is looked at for nothing."""
    rng = np.random.default_rng(seed)
    batch = collate(make_examples([tuple(rng.integers(1, (700, 300))) for _ in range(8)], seed))
    batch = (batch if copied else batch.unmasked()).padded(ROUND)
    seen = sees_matrix(batch).view(len(batch) // ROUND, ROUND, -1, ROUND)
    mask = block_mask(batch)
    some, whole = (
        listed(mask.kv_num_blocks, mask.kv_indices),
        listed(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert torch.equal(whole, seen.all(3).all(1))
    assert not (some & whole).any()
    needed = seen.any(3).any(1)
    assert not (needed & ~some & ~whole).any()
    assert (some | whole).sum() <= 1.1 * needed.sum()
    here = torch.arange(len(batch))
    assert torch.equal(mask.mask_mod(None, None, here[:, None], here[None, :]), sees_matrix(batch))


def listed(numbers, indices):
    """A block mask's lists as ``[rows, columns]`` bool."""
    rows = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for row, (n, columns) in enumerate(zip(numbers[0, 0].tolist(), indices[0, 0].tolist(), strict=True)):
        rows[row, columns[:n]] = True
    return rows


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_gives_the_same_states(monkeypatch):
    """Forward only, and uncompiled: torch has no backward of it on a CPU."""
    from transformers.integrations import flex_attention as integration

    monkeypatch.setattr(
        integration, "WrappedFlexAttention", lambda training: lambda: integration.flex_attention
    )
    model, batch = make_model("mlp"), collate(make_examples(((90, 60), (4, 1), (120, 80))))
    for read in (batch, batch.unmasked()):
        with torch.no_grad():
            use_attention(causal_lm(model.backbone), "segments")
            want = model.encode(read)
            use_attention(causal_lm(model.backbone), "flex")
            got = model.encode(read)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [k for k in KINDS if k != "flex"])
def test_states_do_not_depend_on_what_is_hidden_from_them(attention):
    """Neither another example nor hidden or later tokens reach a state."""
    model = make_model("mlp", attention)
    examples = make_examples()
    with torch.no_grad():
        batch = collate(examples)
        want = model.encode(batch)
        ids = batch.token_ids.clone()
        other = batch.example != 1
        ids[other] = (ids[other] + 3) % VOCABULARY
        got = model.encode(type(batch)(**{**vars(batch), "token_ids": ids}))
        torch.testing.assert_close(got[~other], want[~other])
        hidden = batch.token_ids.clone()
        hidden[batch.hidden] = (hidden[batch.hidden] + 3) % VOCABULARY
        got = model.encode(type(batch)(**{**vars(batch), "token_ids": hidden}))
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert (batch.part == COPY).sum() == sum(e.n_continuation for e in examples)


def test_targets_have_no_gradient_and_the_average_follows_slowly():
    model = make_model("transformer")
    target = TargetEncoder(model.backbone, model.trained_encoder(), 0.9)
    batch = collate(make_examples())
    before = {name: p.detach().clone() for name, p in model.trained_encoder().items()}
    with target.in_place():
        states = model.encode(batch.unmasked())
    assert not states.requires_grad
    with torch.no_grad():
        for p in model.trained_encoder().values():
            p += 1.0
    target.update()
    for name, p in model.trained_encoder().items():
        torch.testing.assert_close(target.average[name], 0.9 * before[name] + 0.1 * p.detach())
        torch.testing.assert_close(p.detach(), before[name] + 1.0)  # given back
    assert target.average.keys() == {
        name for name in model.trainable() if "lora" in name or "trainable_tokens" in name
    }


def test_target_pass_has_no_dropout_and_leaves_the_online_one_as_it_was():
    model = make_model("mlp")
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.5
    target = TargetEncoder(model.backbone, model.trained_encoder(), 0.9)
    batch = collate(make_examples()).unmasked()

    def look() -> Tensor:
        with target.in_place():
            return model.encode(batch)

    torch.testing.assert_close(look(), look(), rtol=0, atol=0)
    assert all(m.training for m in model.backbone.modules() if isinstance(m, nn.Dropout))
