"""What a recipe's model holds, needs and costs, by its shape alone: parameters, memory, FLOPs.

Arithmetic without torch, so that a recipe can be judged before anything is loaded. Counts of parameters are
exact for the families of `FAMILIES`, FLOPs are those of the matrix products; memory is an estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehr_assets.contracts import SECTIONS
from ehr_assets.models.limits import LOGITS_AT_ONCE
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, FullSpec, LoraSpec, PhaseSpec

N_DELIMITERS = 2 * len(SECTIONS)
"""Tokens that open and close sections."""

FAMILIES: Mapping[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}
"""transformers' `model_type` → whether q, k, v have biases, and q, k norms of their own."""

PEAKS: Mapping[str, float] = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 FLOP/s by the name that a device gives itself (NVIDIA's data sheets). The first match holds."""


def peak_flops(device: str) -> float | None:
    """Of a device in bf16; None where it is not known."""
    words = device.split()
    return next((peak for name, peak in PEAKS.items() if _within(name.split(), words)), None)


def _within(name: list[str], words: list[str]) -> bool:
    """Whether all words of the name are there; "H100" is also in "H100-80GB", "L4" is not in "L40S"."""
    return all(any(w == n or w.startswith(f"{n}-") for w in words) for n in name)


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal LM of one of the `FAMILIES`.

    Attributes:
        vocabulary: rows of the embeddings, after they have grown to hold the corpus's tokens.
        tied: whether the output head is the embedding matrix.
        bias, norms: as in `FAMILIES`.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    bias: bool = False
    norms: bool = False

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's linear maps: q, k, v, o; gate, up, down."""
        h, q, k = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [(h, q), (h, k), (h, k), (q, h), *[(h, self.intermediate)] * 2, (self.intermediate, h)]

    @property
    def matrices(self) -> int:
        """1 where the output head is the embedding matrix, else 2."""
        return 1 if self.tied else 2

    @property
    def parameters(self) -> int:
        """Of the backbone, without an adapter."""
        layer = sum(a * b for a, b in self.linears) + 2 * self.hidden
        layer += (self.heads + 2 * self.kv_heads) * self.head_dim if self.bias else 0
        layer += 2 * self.head_dim if self.norms else 0
        return self.layers * layer + self.hidden + self.matrices * self.vocabulary * self.hidden

    def lora(self, r: int) -> int:
        """Parameters of a LoRA of this rank on all linear layers (not on the output head)."""
        return self.layers * sum(r * (a + b) for a, b in self.linears)


def shape_of(config: Mapping[str, Any], vocabulary: int = 0) -> Shape | None:
    """Of the content of a `config.json`; None for a family that is not known here.

    Args:
        vocabulary: of the corpus; the embeddings grow to hold it.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if family is None or any(config.get(key) is None for key in needed):
        return None
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    bias = bool(config.get("attention_bias")) or family[0]
    return Shape(
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        intermediate=config["intermediate_size"],
        vocabulary=max(config["vocab_size"], vocabulary),
        tied=bool(config.get("tie_word_embeddings", False)),
        bias=bias,
        norms=family[1],
    )


def shape_of_spec(spec: ConfigBackbone, vocabulary: int) -> Shape:
    """Of a backbone that is built from its sizes (`models/backbone.py`)."""
    sizes = {**spec.model_dump(), "model_type": spec.architecture, "tie_word_embeddings": True}
    found = shape_of({**sizes, "vocab_size": vocabulary})
    assert found
    return found


def trained(recipe: RecipeSpec, shape: Shape, vocabulary: int) -> dict[str, int]:
    """What is trained, part → parameters. `vocabulary`: tokens of the corpus's tokenizer."""
    parts: dict[str, int] = {}
    if isinstance(recipe.adapter, LoraSpec):
        rows = vocabulary if recipe.adapter.trainable_tokens == "all" else N_DELIMITERS
        parts["LoRA"] = shape.lora(recipe.adapter.r)
        # peft trains the rows of a tied head together with the embeddings', but keeps both of an untied one.
        parts["token embeddings"] = shape.matrices * rows * shape.hidden
    else:
        parts["backbone"] = shape.parameters
    if recipe.jepa:
        parts["predictor"] = predictor_parameters(recipe, shape.hidden)
        parts["mask token"] = shape.hidden
    return parts


def predictor_parameters(recipe: RecipeSpec, hidden: int) -> int:
    """Of the bottleneck predictor (`models/predictor.py`)."""
    assert recipe.jepa
    spec = recipe.jepa.predictor
    b = spec.size_inside(hidden)
    layer = b * b + b if spec.kind == "mlp" else 12 * b * b + 13 * b
    return 2 * hidden * b + 2 * hidden + spec.layers * layer


def expected_example(recipe: RecipeSpec) -> tuple[int, int]:
    """(context, continuation) of an example that fills its window, with the mean share of continuation."""
    share = sum(recipe.data.continuation_fraction) / 2
    continuation = max(1, round(share * recipe.data.max_tokens))
    return recipe.data.max_tokens - continuation, continuation


def example_flops(
    recipe: RecipeSpec, phase: PhaseSpec, shape: Shape, context: int, continuation: int
) -> float:
    """Of one example in the fused step: forward, backward and target pass; nothing computed twice.

    Two for each multiplication of a matrix product. Of attention, the pairs that see each other.
    """
    n, m = context, continuation
    full = isinstance(recipe.adapter, FullSpec)
    hides = "jepa" in phase.weighed
    linear = 2 * shape.layers * sum(a * b for a, b in shape.linears)
    lora = 2 * shape.lora(recipe.adapter.r) if isinstance(recipe.adapter, LoraSpec) else 0
    pair = 4 * shape.layers * shape.heads * shape.head_dim
    plain_pairs = (n + m) * (n + m + 1) / 2
    copy_pairs = m * n + m * (m + 1) / 2
    tokens, pairs = (n + 2 * m, plain_pairs + copy_pairs) if hides else (n + m, plain_pairs)
    # Of a frozen matrix the backward pass needs one product, of a trained one two; attention's needs twice
    # the forward's.
    total = tokens * ((3 if full else 2) * linear + 3 * lora) + 3 * pairs * pair
    if "sft" in phase.weighed:
        total += 3 * m * 2 * shape.hidden * shape.vocabulary
    if hides:
        total += (n + m) * (linear + lora) + plain_pairs * pair
        total += 3 * _predictor_flops(recipe, shape.hidden, n + m)
    return total


def flops_per_token(recipe: RecipeSpec, shape: Shape) -> dict[str, float]:
    """Phase → FLOPs per token of [x, y], of an expected example."""
    n, m = expected_example(recipe)
    return {p.name: example_flops(recipe, p, shape, n, m) / (n + m) for p in recipe.phases}


def _predictor_flops(recipe: RecipeSpec, hidden: int, tokens: int) -> float:
    assert recipe.jepa
    spec = recipe.jepa.predictor
    b = spec.size_inside(hidden)
    through = 2 * tokens * 2 * hidden * b
    if spec.kind == "mlp":
        return through + spec.layers * 2 * tokens * b * b
    return through + spec.layers * (2 * tokens * 12 * b * b + 4 * b * tokens * (tokens + 1) / 2)


def memory_bytes(recipe: RecipeSpec, shape: Shape, vocabulary: int, *, bf16: bool) -> dict[str, float]:
    """What one process holds while it trains, part → bytes. An estimate.

    Weights; of what is trained, gradients in float32 and the optimizer's three numbers of 4 bytes, by ZeRO
    stage shared among processes; the target encoder's average; what the backward pass needs of a
    micro-batch's layers (all of one layer's under gradient checkpointing); of the continuation's logits, as
    many as are kept at a time.
    """
    engine, size = recipe.engine, 2 if bf16 else 4
    world, stage = engine.num_processes, engine.zero_stage
    parts = trained(recipe, shape, vocabulary)
    n_trained = sum(parts.values())
    full = isinstance(recipe.adapter, FullSpec)
    everything = n_trained if full else n_trained + shape.parameters
    encoder = n_trained - parts.get("predictor", 0) - parts.get("mask token", 0)
    micro, _ = engine.shared(recipe.batch, world)
    n, m = expected_example(recipe)
    hides = recipe.jepa is not None
    tokens = micro * (n + (2 * m if hides else m))
    h, layer = shape.hidden, _saved_by_layer(recipe, shape) * size * tokens
    layers = shape.layers * layer
    if engine.gradient_checkpointing:
        layers = layer + shape.layers * h * size * tokens
    return {
        "weights": everything * size / (world if stage == 3 else 1),
        "gradients": 4 * n_trained / (world if stage > 1 else 1),
        "optimizer": 12 * n_trained / world,
        "target encoder": (4 * encoder / (world if stage == 3 else 1)) if hides else 0,
        "activations": layers + (_saved_by_predictor(recipe, h) * size * micro * (n + m) if hides else 0),
        # As they come, in float32, and their gradient.
        "logits": min(micro * m * shape.vocabulary, LOGITS_AT_ONCE) * (size + 8),
    }


def _saved_by_layer(recipe: RecipeSpec, shape: Shape) -> float:
    """Numbers that a token leaves in a layer for the backward pass.

    Both norms keep their input in float32 and scaled; attention keeps q, k, v and its output; the gated MLP
    its four products. LoRA keeps what goes into each linear map, and with dropout a mask of it.
    """
    h, q, k = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    plain = 6 * h + 2 * q + 2 * k + 4 * shape.intermediate + (3 * (q + k) if shape.norms else 0)
    inputs = sum(a for a, _ in shape.linears)
    if isinstance(recipe.adapter, LoraSpec):
        return plain + (1.5 if recipe.adapter.dropout else 0) * inputs + 7 * recipe.adapter.r
    return plain


def _saved_by_predictor(recipe: RecipeSpec, hidden: int) -> float:
    """Numbers that a token of [x, ỹ] leaves in the predictor for the backward pass."""
    assert recipe.jepa
    spec = recipe.jepa.predictor
    return 8 * hidden + (24 if spec.kind == "transformer" else 3) * spec.layers * spec.size_inside(hidden)
