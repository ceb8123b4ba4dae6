"""Report specs: which recipes and cohorts stand on one page, and what a candidate must show to be promoted.

Light: read while definitions load.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ehr_assets.specs import Spec, closest, parse_spec, read_yaml

SPECS = Path(__file__).parent / "specs"


class BaselineBar(Spec):
    """The candidate's mean of `metric` over tasks, less that of the baseline, on every cohort of the report.

    `by`: what must reach `min_difference`: the lower end of the paired 95 % interval, or the difference
    itself.
    """

    method: str = "xgboost"
    metric: str = "auroc"
    min_difference: float = Field(default=0.0, allow_inf_nan=False)
    by: Literal["ci_low", "difference"] = "ci_low"


class AcceptedBar(Spec):
    """How much of the accepted version's mean may be lost, over the tasks that it scored: all must be scored
    again.
    """

    max_drop: float = Field(default=0.01, ge=0, allow_inf_nan=False)


class CalibrationBar(Spec):
    """The largest mean expected calibration error over tasks, on every cohort of the report."""

    max_ece: float = Field(default=0.1, gt=0, allow_inf_nan=False)


class PromotionSpec(Spec):
    """When `<report>/verdict` says that the candidate may be promoted.

    `candidate` is named here, before held-out subjects are scored: the best of several would be a choice
    made on them. Left out, it is the last recipe of the report. `guards`: those that must have looked and
    found nothing that fails; "all": those of every audit.
    """

    candidate: str | None = None
    baseline: BaselineBar = BaselineBar()
    accepted: AcceptedBar = AcceptedBar()
    calibration: CalibrationBar = CalibrationBar()
    guards: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"


class ReportSpec(Spec):
    """One report: the scores of `recipes` on `cohorts`, beside the baselines of those cohorts.

    Args:
        labels: recipe → its name in tables and figures, such as "Curriculum (M+I)".
        pairs: recipes whose differences are asked for; none: every two of them.
        by_horizon: cohorts whose tasks are laid out by horizon (SMB-Structure, Table 5).
        figure4: the indication of which there is a figure of its own (SMB-Structure, Figure 4).
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(min_length=1)
    recipes: tuple[str, ...] = Field(min_length=1)
    cohorts: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    pairs: tuple[tuple[str, str], ...] = ()
    by_horizon: tuple[str, ...] = ()
    figure4: str | None = None
    promotion: PromotionSpec = PromotionSpec()

    @field_validator("recipes", "cohorts")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name is listed twice")
        return names

    @model_validator(mode="after")
    def _names_what_it_lists(self) -> "ReportSpec":
        named = [("labels", name) for name in self.labels]
        named += [("pairs", name) for pair in self.pairs for name in pair]
        named += [("promotion.candidate", name) for name in (self.promotion.candidate,) if name]
        for key, name in named:
            if name not in self.recipes:
                raise ValueError(f"{key}: '{name}' is no recipe of this report.{closest(name, self.recipes)}")
        for name in self.by_horizon:
            if name not in self.cohorts:
                raise ValueError(f"by_horizon: '{name}' is no cohort of it.{closest(name, self.cohorts)}")
        if any(a == b for a, b in self.pairs):
            raise ValueError("pairs: a recipe does not differ from itself")
        return self

    @property
    def candidate(self) -> str:
        """The recipe that the verdict is about."""
        return self.promotion.candidate or self.recipes[-1]

    def label(self, recipe: str) -> str:
        return self.labels.get(recipe, recipe)


def load_report(path: str | Path, overrides: Mapping[str, Any] | None = None) -> ReportSpec:
    """Reads and validates a report spec; dotted `overrides` win over the file.

    Raises:
        SpecError: naming the file, the key and the reason.
    """
    return parse_spec(ReportSpec, read_yaml(Path(path)), str(path), overrides)
