"""A made-up report whose candidate is promoted: real promotion and rollback assets over stand-ins for what
they read, with a real registry (SQLite)."""

import json
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetSelection,
    DagsterInstance,
    asset,
    asset_check,
    materialize,
)

from ehr_assets.errors import TrackingError
from ehr_assets.reports.assets import report_key, verdict_key
from ehr_assets.reports.promotion.acts import Act
from ehr_assets.reports.promotion.assets import promotion_assets, rollback_assets
from ehr_assets.reports.promotion.checks import promotion_checks, rollback_checks
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.reports.verdict import CRITERIA, FORMAT, VERDICT
from ehr_assets.training.assets import checkpoint_key
from resources.promotions import promotion_key, recorded_acts, rollback_key, verdict_to_beat
from resources.recorded import DATASET_KEY
from resources.storage import Datasets
from resources.tracking import CHAMPION, MlflowTracking

MODEL = "model"
ASKED = {"asked_by": "ada", "reason": "better"}


class Registry(MlflowTracking):
    """The real one, which fails when told to."""

    def move_alias(self, model, alias, version):
        if BROKEN:
            raise BROKEN[0] if BROKEN[0] is not ONCE else BROKEN.pop()
        super().move_alias(model, alias, version)


BROKEN: list[Exception] = []
ONCE = TrackingError("Busy.")


class House:
    """Reports `r` and `s` on one candidate, `model`; what it was trained to and judged as can be set."""

    def __init__(self, home):
        self.home = home
        self.instance = DagsterInstance.ephemeral()
        self.tracking = Registry(uri=f"sqlite:///{home / 'mlflow.db'}")
        self.gate()
        self.reports = {
            r: ReportSpec.model_validate({"name": r, "title": "R", "recipes": [MODEL], "cohorts": ["c"]})
            for r in "rs"
        }
        self.weights, self.allowed, self.criteria, self.registers = "one", True, True, True

    def gate(self, **more: list[str]):
        """Checks without which nothing is read, beside the verdicts'."""
        gates = {f"{r}/verdict": ["readable"] for r in "rs"}
        self.datasets = Datasets(home=str(self.home), gates=gates | more)

    def train(self, weights):
        self.weights = weights
        assert self.run(self.checkpoint()).success

    def judge(self, report="r"):
        assert self.run(*self.verdict(report)).success

    def ready(self, weights, *reports):
        """Trained, registered and judged by these reports."""
        self.train(weights)
        for report in reports or "r":
            self.judge(report)

    def promote(self, report="r", tags=None, **asked):
        definitions = [*promotion_assets(self.reports[report]), *promotion_checks(report)]
        return self.run(*definitions, config={f"{report}__promotion": {**ASKED, **asked}}, tags=tags)

    def roll_back(self, **asked):
        definitions = [*rollback_assets(MODEL), *rollback_checks(MODEL)]
        return self.run(*definitions, config={f"{MODEL}__rollback": {**ASKED, **asked}})

    def run(self, *definitions, config=None, tags=None):
        return materialize(
            list(definitions),
            selection=AssetSelection.all() | AssetSelection.all_asset_checks(),
            instance=self.instance,
            resources={"datasets": self.datasets, "tracking": self.tracking},
            run_config={"ops": {name: {"config": given} for name, given in (config or {}).items()}},
            raise_on_error=False,
            tags=tags,
        )

    @property
    def champion(self) -> str | None:
        return self.tracking.alias(MODEL, CHAMPION)

    @property
    def acts(self) -> list[Act]:
        return recorded_acts(self.instance)

    def beaten(self, report) -> str | None:
        """The version that a report's next candidate is held against."""
        found = verdict_to_beat(self.instance, self.datasets, self.tracking, report)
        return next((a.version for a in self.acts if found and a.data_version == found.data_version), None)

    def record(self, act: Act):
        """The folder of an act's record."""
        return self.home / act.dataset

    def newest(self, key):
        return self.datasets.latest(self.instance, key)

    def checkpoint(self):
        house, key = self, checkpoint_key(MODEL)

        @asset(key=key, code_version="1")
        def checkpoint(context: AssetExecutionContext, datasets: Datasets, tracking: MlflowTracking):
            def build(step):
                (step.out / "weights").write_text(house.weights)
                return {"mlflow_run_id": tracking.start(MODEL, {}, {})}

            result = datasets.materialize(context, build)
            if house.registers:
                where = str(dict[str, Any](result.metadata or {})[DATASET_KEY].value)
                made = datasets.store.open("model/checkpoint", where)
                tags = {"asset": "model/checkpoint", "dataset": where, "data_version": made.data_version}
                tracking.register(MODEL, made.manifest.stats["mlflow_run_id"], made.path, tags)
            return result

        return checkpoint

    def verdict(self, report):
        """The verdict, its checks, and the page."""
        house, key = self, verdict_key(report)

        @asset(key=key, deps=[checkpoint_key(MODEL)], code_version="1")
        def verdict(context: AssetExecutionContext, datasets: Datasets, tracking: MlflowTracking):
            beaten = verdict_to_beat(context.instance, datasets, tracking, report)

            def build(step):
                content = {
                    "format": FORMAT,
                    "report": report,
                    "recipe": MODEL,
                    "may_be_promoted": house.allowed,
                    "reasons": [] if house.allowed else ["It is worse."],
                    "criteria": [{"name": n, "passed": house.allowed, "said": ""} for n in CRITERIA],
                    "versions": {name: d.data_version for name, d in step.inputs.items()},
                    "accepted": beaten and {"recipe": MODEL, "data_version": beaten.data_version},
                }
                (step.out / VERDICT).write_text(json.dumps(content))
                return {}

            return datasets.materialize(context, build)

        def check(name):
            readable = name == "readable"

            @asset_check(asset=key, name=name, blocking=readable)
            def judged(context, datasets: Datasets) -> AssetCheckResult:
                passed = readable or house.criteria
                return datasets.judge(datasets.latest(context.instance, key), passed, warns=True)

            return judged

        @asset(key=report_key(report), deps=[key], code_version="1")
        def page(context: AssetExecutionContext, datasets: Datasets):
            def build(step):
                (step.out / "report.html").write_text(step.inputs[f"{report}/verdict"].data_version)
                return {}

            return datasets.materialize(context, build)

        return [verdict, page, *map(check, ("readable", *CRITERIA))]


def said(result) -> str:
    """What the failed step told."""
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data
    return failure.user_failure_data.description if failure.user_failure_data else str(failure.error)


__all__ = ["ASKED", "BROKEN", "MODEL", "ONCE", "House", "promotion_key", "rollback_key", "said"]
