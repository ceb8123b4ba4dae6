"""MEDS frames: extraction, validation, quarantine, splits."""
