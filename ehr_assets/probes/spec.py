"""What a recipe's `probe:` and a cohort's `baselines:` may say: how outcomes are read off and scored."""

from typing import Annotated, Literal

from pydantic import Field

from ehr_assets.specs import Spec

Positive = Annotated[int, Field(ge=1)]

BaselineMethod = Literal["logistic", "ridge", "cox", "random_forest", "xgboost", "bag_of_codes"]


class FitSpec(Spec):
    """What probes and baselines share.

    `bootstrap`: resamples of subjects behind the intervals of `metrics.parquet`. `min_samples`,
    `min_positives`: nodes, and nodes of the rarer class (or with the event), that train and held-out must
    have; a task with fewer is listed, not scored. `folds`: of the grouped cross-validation that chooses the
    strength of an L2 penalty. `survival_categories`: a binary task whose category holds one of these words is
    also asked as a time to event.
    """

    bootstrap: Positive = 200
    min_samples: Positive = 20
    min_positives: Positive = 5
    folds: int = Field(default=5, ge=2)
    survival_categories: tuple[str, ...] = ("survival", "mortality")


class ProbeSpec(FitSpec):
    """The probes on S(t). `fit`: one per task, one per task and indication where that has nodes enough."""

    fit: tuple[Literal["pooled", "by_indication"], ...] = Field(default=("pooled",), min_length=1)


class BaselineSpec(FitSpec):
    """The baselines of a cohort. `tuning`: how many settings of trees are tried; `seed`: of what is drawn.

    `methods`: each answers the tasks that it can: logistic regression the binary ones, ridge numbers, Cox
    times to event, trees and the bag of codes binary ones and numbers.
    """

    methods: tuple[BaselineMethod, ...] = Field(
        default=("logistic", "ridge", "cox", "random_forest", "xgboost", "bag_of_codes"), min_length=1
    )
    tuning: Literal["small", "full"] = "small"
    seed: int = Field(default=1, ge=0)
