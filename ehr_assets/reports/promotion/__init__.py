"""Promotion of a model version and the way back: `<report>/promotion`, `<model>/rollback`."""
