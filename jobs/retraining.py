"""What a retraining takes in, and the jobs that do it: the whole chain of what is chosen, as one run.

`retrain`           the chain from raw tables to reports; one run, which is the unit of an audit
`retrain_chosen`    names by config which reports, cohort or recipes; a run of `retrain` follows it
`set_retraining`    keeps such a choice and the schedule's times under EHR_HOME

When they run by themselves is `schedules.py` and `sensors.py`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    Config,
    JobDefinition,
    OpExecutionContext,
    RunRequest,
    define_asset_job,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._utils.schedules import is_valid_cron_schedule
from pydantic import Field, field_validator, model_validator

from ehr_assets.catalog import Catalog, unknown
from ehr_assets.embeddings.assets import has_control
from ehr_assets.errors import SpecError
from ehr_assets.probes.assets import control_metrics_key, probe_metrics_key
from ehr_assets.reports.assets import report_key
from ehr_assets.reports.profile.assets import profile_key
from ehr_assets.settings import RETRAINING_VARIABLE, Settings
from ehr_assets.specs import Spec, parse_spec, read_yaml
from resources.points import Points
from resources.storage import ONLY_IF_CHANGED_TAG

RETRAIN, CHOSEN, SET = "retrain", "retrain_chosen", "set_retraining"
RETRAINING_TAG = "ehr/retraining"
"""On every run that a schedule, a sensor or a choice asked for: by whom. Of these one runs at a time
(infra/dagster.yaml)."""
NOTHING_CHOSEN = "Nothing is chosen: name reports, a cohort or recipes."


class Choice(Spec):
    """What is retrained: named reports, or those about a cohort alone, or recipes up to their scores.

    Args:
        reports: with them the profiles of their cohorts.
        cohort: the reports about it, as `ehr run --cohort` takes them.
        recipes: with a cohort, only its reports that show one of them; else these recipes' scores, and the
            reports that show no others.
        only_if_changed: what would come out as it is is kept.
    """

    reports: tuple[str, ...] = ()
    cohort: str = ""
    recipes: tuple[str, ...] = ()
    only_if_changed: bool = True

    @property
    def is_empty(self) -> bool:
        return not (self.reports or self.cohort or self.recipes)


class RetrainingSpec(Choice):
    """When and what the schedule retrains, and how old a report may become.

    Args:
        cron: five fields.
        timezone: of the IANA database.
        warn_days, fail_days: a report that was not made (or found unchanged) for so long is shown as late.
    """

    cron: str = "0 2 * * 0"
    timezone: str = "UTC"
    warn_days: float = Field(default=14, gt=0, le=3650)
    fail_days: float = Field(default=35, gt=0, le=3650)

    @field_validator("cron")
    @classmethod
    def _cron(cls, cron: str) -> str:
        if not is_valid_cron_schedule(cron) or len(cron.split()) != 5:
            raise ValueError(f"'{cron}' is no cron expression of five fields")
        return cron

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (OSError, ValueError, KeyError):
            raise ValueError(f"'{timezone}' is no timezone, such as Europe/Berlin") from None
        return timezone

    @model_validator(mode="after")
    def _warns_first(self) -> "RetrainingSpec":
        if self.warn_days >= self.fail_days:
            raise ValueError("warn_days must be less than fail_days")
        return self


def retraining_file(settings: Settings) -> Path:
    """What `set_retraining` keeps."""
    return settings.home / "retraining.yaml"


def load_retraining(settings: Settings) -> RetrainingSpec:
    """The environment's EHR_RETRAINING, and what was set in the launchpad laid over it.

    Raises:
        SpecError: one of them cannot be used.
    """
    try:
        given = json.loads(settings.retraining or "{}")
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise SpecError(
            "The retraining is not a mapping in JSON.",
            where=f"environment variable {RETRAINING_VARIABLE}",
            do='Write e.g. {"cohort": "synthetic_oncology", "cron": "0 2 * * 0", "timezone": "UTC"}.',
        )
    file = retraining_file(settings)
    kept = read_yaml(file) if file.is_file() else {}
    where = " and ".join(w for w in (RETRAINING_VARIABLE if given else "", str(file) if kept else "") if w)
    return parse_spec(RetrainingSpec, {**given, **kept}, where or "the defaults")


class Retraining:
    """The chains that there are, and which assets a choice stands for."""

    def __init__(self, catalog: Catalog, assets: Sequence[AssetsDefinition]) -> None:
        self.catalog, self._assets = catalog, assets
        self.seeded = {name for name, recipe in catalog.recipes.items() if recipe.seeds}
        targets = [*map(report_key, self._reports()), *map(profile_key, catalog.cohorts)]
        # A recipe that no report shows can be chosen, too.
        targets += [key for name in catalog.recipes if name not in self.seeded for key in self._scores(name)]
        self.job: UnresolvedAssetJobDefinition = define_asset_job(
            RETRAIN,
            selection=AssetSelection.assets(*targets).upstream(),
            description="The chain from raw tables to reports, as one run. Select assets to take part of it, "
            f"or launch {CHOSEN}.",
        )

    def assets(self, choice: Choice) -> list[AssetKey]:
        """All assets of the chain of what is chosen, from the raw tables on.

        Raises:
            SpecError: nothing is chosen, something unknown, or a recipe of several seeds, which are a run
                each.
        """
        keys = self._targets(choice)
        return sorted(AssetSelection.assets(*keys).upstream().resolve(self._assets))

    def request(self, choice: Choice, asked_by: str, run_key: str | None = None) -> RunRequest:
        """One run of `retrain` over what is chosen. Raises SpecError as `assets` does."""
        return RunRequest(
            run_key=run_key,
            job_name=RETRAIN,
            asset_selection=self.assets(choice),
            tags={
                RETRAINING_TAG: asked_by,
                **({ONLY_IF_CHANGED_TAG: "true"} if choice.only_if_changed else {}),
            },
        )

    def _targets(self, choice: Choice) -> list[AssetKey]:
        reports, recipes = self._named(choice)
        if not reports and not recipes:
            raise SpecError(NOTHING_CHOSEN, where="retraining", do="Set one of: reports, cohort, recipes.")
        shown = {r for report in reports for r in self.catalog.reports[report].recipes}
        if several := sorted(self.seeded & {*shown, *recipes}):
            raise SpecError(
                f"Recipes of several seeds are a run per seed: {', '.join(several)}.",
                where="retraining",
                do="Launch a backfill of `<recipe>_seeds`, or use `ehr run --report`.",
            )
        cohorts = dict.fromkeys(c for report in reports for c in self.catalog.reports[report].cohorts)
        keys = [*map(report_key, reports), *map(profile_key, cohorts)]
        return [*keys, *(key for name in recipes for key in self._scores(name))]

    def _scores(self, recipe: str) -> list[AssetKey]:
        control = has_control(Points.of(self.catalog.recipes[recipe]))
        return [probe_metrics_key(recipe), *([control_metrics_key(recipe)] if control else [])]

    def _named(self, choice: Choice) -> tuple[list[str], list[str]]:
        """The reports that are meant, and the recipes that are meant beside them."""
        catalog = self.catalog
        for kind, names, known in (
            ("report", choice.reports, catalog.reports),
            ("cohort", [choice.cohort] if choice.cohort else [], catalog.cohorts),
            ("recipe", choice.recipes, catalog.recipes),
        ):
            for name in names:
                if name not in known:
                    raise unknown(kind, name, known, f"retraining, {kind}s")
        reports, recipes = list(choice.reports), set(choice.recipes)
        if choice.cohort:
            about = catalog.reports_on(choice.cohort)
            found = [r for r in about if not recipes or recipes & set(catalog.reports[r].recipes)]
            if not found:
                those = "" if not recipes else f" that shows {', '.join(sorted(recipes))}"
                raise SpecError(
                    f"There is no report about '{choice.cohort}'{those}.",
                    where="retraining, cohort",
                    do=f"Name another cohort, or reports: {', '.join(sorted(catalog.reports))}.",
                )
            return list(dict.fromkeys([*reports, *found])), []
        if recipes:
            of_these = [n for n, report in catalog.reports.items() if set(report.recipes) <= recipes]
            reports = list(dict.fromkeys([*reports, *of_these]))
        return reports, list(choice.recipes)

    def _reports(self) -> Iterable[str]:
        return (n for n, report in self.catalog.reports.items() if not self.seeded & set(report.recipes))


class ChoiceConfig(Config):
    """`Choice`, for the launchpad."""

    reports: list[str] = Field(default=[], description="Reports by name, with the profiles of their cohorts.")
    cohort: str = Field(default="", description="The reports about this cohort alone.")
    recipes: list[str] = Field(
        default=[], description="With a cohort: its reports that show one of them. Else: these, up to scores."
    )
    only_if_changed: bool = Field(default=True, description="Keep what would come out as it is.")


class RetrainingConfig(ChoiceConfig):
    """`RetrainingSpec`, for the launchpad. The choice counts as it stands here, with nothing of the
    environment's; times that are left out go back to the environment's or the default."""

    cron: str = Field(default="", description="When, in five fields. Reload the definitions afterwards.")
    timezone: str = Field(default="", description="Such as Europe/Berlin.")


def chosen(run_config: Any) -> Choice:
    """What a run of `retrain_chosen` was given."""
    given = (((run_config or {}).get("ops") or {}).get("choose") or {}).get("config") or {}
    return parse_spec(Choice, given, "launchpad")


def retraining_jobs(retraining: Retraining, settings: Settings) -> list[JobDefinition]:
    """`retrain_chosen` and `set_retraining`: what is set in the launchpad."""

    @op(description="Says which assets a run of `retrain` will take in; it follows by itself.")
    def choose(context: OpExecutionContext, config: ChoiceConfig) -> None:
        keys = retraining.assets(parse_spec(Choice, config.model_dump(), "launchpad"))
        context.log.info(f"A run of {RETRAIN} over {len(keys)} assets follows.")
        context.add_output_metadata({"assets": [key.to_user_string() for key in keys]})

    @op(description="Checks the settings and keeps them for the schedule.")
    def keep(context: OpExecutionContext, config: RetrainingConfig) -> None:
        data = {k: v for k, v in config.model_dump().items() if v != "" or k in Choice.model_fields}
        spec = parse_spec(RetrainingSpec, data, "launchpad")
        retraining.assets(spec)
        file = retraining_file(settings)
        staged = file.with_suffix(f".{os.getpid()}")
        staged.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
        staged.rename(file)
        context.log.info(f"Kept in {file}. The choice holds from now on; cron and timezone after a reload.")

    @job(name=CHOSEN, description=f"Names by config what a run of {RETRAIN} takes in, and asks for that run.")
    def retrain_chosen() -> None:
        choose()

    @job(name=SET, description="What the schedule `retraining` takes in, and when.")
    def set_retraining() -> None:
        keep()

    return [retrain_chosen, set_retraining]
