"""Words that every room must spell alike: sections, splits, the codes of birth and death. Nothing else."""

from typing import Literal, get_args

Section = Literal[
    "demographics",
    "conditions",
    "measurements",
    "observations",
    "procedures",
    "drugs",
    "notes",
    "death",
]
SECTIONS: tuple[str, ...] = get_args(Section)
"""In the order of sections within one moment, and of the delimiter tags (SMB-Structure, Table 1)."""

SPLITS = ("train", "tuning", "held_out")
"""As the `meds` package spells them; a test keeps the two equal."""

BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
