"""Training: recipes, the DeepSpeed process, checkpoints."""
