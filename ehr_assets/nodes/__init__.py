"""Decision nodes: triggers, task definitions, labels."""
