"""Embeddings and losses beside peft's own way, in values and gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM

from ehr_assets.models.backbone import causal_lm, with_lora
from ehr_assets.models.vocabulary import Vocabulary

V, D = 40, 16
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 16,
}


def adapted(tied: bool, tokens):
    torch.manual_seed(0)
    model = with_lora(
        Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tied)),
        r=2,
        alpha=2,
        dropout=0.0,
        trainable_tokens=tokens,
        base_name="b",
    )
    for name, p in model.named_parameters():
        if "trainable_tokens" in name:  # as after some steps
            torch.nn.init.normal_(p)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens", [(3, 1, 39), range(V)])
@pytest.mark.parametrize("at_once", [2**26, 3 * V, 1])
def test_values_and_gradients_are_those_of_pefts_layers(tied, tokens, at_once):
    model = adapted(tied, tokens)
    inner = causal_lm(model)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, V, (11,), generator=draw)
    ids[:3] = torch.tensor([1, 39, 3])
    states = torch.randn(11, D, generator=draw)

    def gradients(embedded, nll, states) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (embedded.square().sum() + nll.sum()).backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return {**found, "states": states.grad}

    theirs_in, ours_in = (states.clone().requires_grad_() for _ in range(2))
    embedded = inner.get_input_embeddings()(ids)
    nll = cross_entropy(inner.get_output_embeddings()(theirs_in), ids, reduction="none")
    theirs = gradients(embedded, nll, theirs_in)

    vocabulary = Vocabulary(inner, at_once)
    ours_embedded, ours_nll = vocabulary.embed(ids), vocabulary.nll(ours_in, ids)
    torch.testing.assert_close(ours_embedded, embedded, rtol=0, atol=0)
    torch.testing.assert_close(ours_nll, nll)
    ours = gradients(ours_embedded, ours_nll, ours_in)
    assert ours.keys() == theirs.keys()
    assert sum("trainable_tokens" in name for name in ours) == (1 if tied else 2)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_matrix_is_not_copied():
    """What a step remembers beside the weights is of the size of the batch, not vocabulary times model."""
    model = adapted(tied=True, tokens=(1, 2))
    inner = causal_lm(model)
    vocabulary = Vocabulary(inner)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def largest(embed, logits) -> int:
        sizes = []

        def remember(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            logits(embed(torch.tensor([1, 5]))).square().sum().backward()
        return max(sizes)

    assert largest(vocabulary.embed, vocabulary.logits) == 2 * V
    assert largest(inner.get_input_embeddings(), inner.get_output_embeddings()) == V * D
