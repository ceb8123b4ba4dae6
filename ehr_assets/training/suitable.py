"""Whether a backbone can be trained as a world model: what its `config.json` must not ask for.

One pass over [x, y, ỹ] stands for two because attention is causal and nothing else (`models/batch.py`). A
model that attends in another way would silently be trained as if it did not. Without torch, so that a recipe
can be judged before anything is loaded.
"""

from collections.abc import Mapping
from typing import Any

_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""What families call a change of their logits behind the output head, which the losses do not make."""


def unsuitable(config: Mapping[str, Any], max_tokens: int) -> list[str]:
    """Why a causal LM cannot be the backbone of a recipe: nothing, or a phrase for each reason.

    Args:
        config: what its `config.json` says.
        max_tokens: the longest example, in tokens.
    """
    config = config.get("text_config") or config
    problems = []
    places = config.get("max_position_embeddings")
    if places is not None and max_tokens > places:
        problems.append(f"it can place {places} tokens, not data.max_tokens ({max_tokens})")
    window = config.get("sliding_window")
    kinds = set(config.get("layer_types") or ())
    slides = "sliding_attention" in kinds if kinds else config.get("use_sliding_window", True)
    if window is not None and slides and window < max_tokens:
        problems.append(f"it sees {window} tokens back (sliding_window), not data.max_tokens ({max_tokens})")
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        problems.append(f"its layers are not all of full attention ({', '.join(other)})")
    if config.get("attn_logit_softcapping"):
        problems.append("its attention is capped (attn_logit_softcapping)")
    if config.get("model_type") == "gpt_oss":
        problems.append("its attention has sinks")
    if config.get("alibi"):
        problems.append("its positions are biases of attention (ALiBi)")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for part in (rope, *(inner for inner in rope.values() if isinstance(inner, Mapping))):
        kind = str(part.get("rope_type") or part.get("type") or "")
        if kind in ("longrope", "dynamic"):
            problems.append(f"its positions depend on the longest example of a batch (rope_type {kind})")
    problems += [f"it changes its logits ({key})" for key in _LOGITS if config.get(key) not in (None, 1, 1.0)]
    return problems
