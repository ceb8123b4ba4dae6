"""Which features may tell an outcome nearly by themselves, as a cohort file says it (`univariate.py`).

Some do so honestly: an order for comfort care before a death in hospital. Who has looked into it says so,
with the reason; the finding stays on every page as a warning, and the reason with it. Light: cohort specs
import this module when the definitions load.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from ehr_assets.nodes.pattern_spec import Name
from ehr_assets.specs import Spec


class AcceptedFeature(Spec):
    """`task`: the one that may be told. `features`: their names as the finding gives them, `*` for any text
    (dimensions of S(t) are `dimension *`). `because`: why it is no leak."""

    task: Name
    features: list[str] = Field(min_length=1)
    because: str = Field(min_length=1)


def accepted_because(accepted: Sequence[AcceptedFeature], task: str, feature: str) -> str | None:
    """The reason for which `feature` may tell `task`, or None."""
    for one in accepted:
        if one.task == task and any(f == feature or fnmatchcase(feature, f) for f in one.features):
            return one.because
    return None
