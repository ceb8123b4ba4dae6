"""Bounds of what the networks keep at a time. Without torch: estimates of memory read them too."""

LOGITS_AT_ONCE = 2**26
"""Of logits that are kept at a time: 256 MB in float32."""
