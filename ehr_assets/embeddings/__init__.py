"""Frozen patient states S(t), one per decision node."""
