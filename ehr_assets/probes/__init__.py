"""Probes and baselines on frozen features: linear, boosted, metrics."""
