"""Counts that are too small to be shown: with what else is known, they could tell who it was."""

FEWEST = 11
"""The smallest count of people that is printed: the smallest cell that is commonly published (CMS)."""


def masked(count: int) -> str:
    """The count as printed: nothing between 0 and FEWEST."""
    return f"<{FEWEST}" if 0 < count < FEWEST else number(count)


def number(count: int) -> str:
    """With groups of thousands."""
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}")
