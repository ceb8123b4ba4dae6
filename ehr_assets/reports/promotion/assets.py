"""Dagster assets of this folder: `<report>/promotion`, and `<model>/rollback` of every candidate.

The only ways by which the registry's alias `champion` moves. The record comes first and the alias after it:
a registry that fails in between is repaired by doing the same again.
"""

from collections.abc import Iterator
from pathlib import Path

from dagster import AssetExecutionContext, AssetsDefinition, Config, MaterializeResult, asset
from pydantic import Field

from ehr_assets.errors import PromotionError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.guards import failing_checks
from ehr_assets.lineage.hashing import code_version, settings_hash
from ehr_assets.lineage.names import asset_and_partition, launch_command
from ehr_assets.reports.assets import report_key, verdict_key
from ehr_assets.reports.promotion.acts import Act, version_before, write_record
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.training.assets import checkpoint_key
from resources.promotions import (
    promotion_key,
    recorded_acts,
    rollback_begun,
    rollback_key,
    verdict_to_beat,
)
from resources.retries import failing_clearly
from resources.storage import Datasets, Stats, Step, asset_name
from resources.tracking import CANDIDATE, CHAMPION, MlflowTracking

POOL = "promotion"
"""One act at a time: what is in use must not change while another is decided."""
GROUP = "promotion"


class Asked(Config):
    """Who asks for an act, and why. Both go into its record and the audit log, as they are."""

    asked_by: str = Field(description="Who asks: a name or an address.")
    reason: str = Field(description="Why, in a sentence. Never a value of a record or a subject's id.")

    def require(self, where: str) -> None:
        """Raises PromotionError when one of the two is empty."""
        for key, said in (("asked_by", self.asked_by), ("reason", self.reason)):
            if not said.strip():
                raise PromotionError(
                    f"'{key}' is empty.", where=where, do="Say who asks and why: it is recorded."
                )


class AskedBack(Asked):
    """As `Asked`, and how far back."""

    to: str = Field(
        default="", description="The version to go back to; empty: the one before. 'none': out of use."
    )


def promotion_assets(report: ReportSpec) -> list[AssetsDefinition]:
    """The promotion of a report's candidate, which the report's verdict must allow."""
    model, verdict, checkpoint = report.candidate, verdict_key(report.name), checkpoint_key(report.candidate)

    @asset(
        key=promotion_key(report.name),
        deps=[verdict, report_key(report.name), checkpoint],
        group_name=GROUP,
        pool=POOL,
        kinds={"mlflow"},
        code_version=code_version(["reports/promotion/acts.py"], report.config_hash("promotion")),
        description=f"Puts {report.label(model)} into use (alias `champion`), if the verdict allows it.",
    )
    def promotion(
        context: AssetExecutionContext, config: Asked, datasets: Datasets, tracking: MlflowTracking
    ) -> Iterator[MaterializeResult]:
        done: list[Act] = []

        def build(step: Step) -> Stats:
            judged = step.inputs[asset_name(verdict)]
            trained = [
                d for n, d in step.inputs.items() if asset_and_partition(n)[0] == asset_name(checkpoint)
            ]
            _require_allowed(context, datasets, tracking, report, judged, step)
            act = Act(
                "promoted",
                model,
                version=_version_of(tracking, model, trained, datasets),
                previous=tracking.alias(model, CHAMPION),
                asked_by=config.asked_by,
                reason=config.reason,
                report=report.name,
                checkpoint=trained[0].data_version,
            )
            write_record(act, step.out, judged.path)
            done.append(act)
            return act.facts()

        yield from _done(context, config, datasets, tracking, build, done)

    return [promotion]


def rollback_assets(model: str) -> list[AssetsDefinition]:
    """The way back to the version that was in use before."""

    @asset(
        key=rollback_key(model),
        group_name=GROUP,
        pool=POOL,
        kinds={"mlflow"},
        code_version=code_version(["reports/promotion/acts.py"], settings_hash({})),
        description=f"Puts the version of {model} back into use that was before the present one.",
    )
    def rollback(
        context: AssetExecutionContext, config: AskedBack, datasets: Datasets, tracking: MlflowTracking
    ) -> Iterator[MaterializeResult]:
        done: list[Act] = []

        def build(step: Step) -> Stats:
            champion = tracking.alias(model, CHAMPION)
            acts = recorded_acts(context.instance)
            begun = None if config.to else rollback_begun(context.instance, acts, model, context.run_id)
            version = begun.version if begun else version_before(acts, model, champion, config.to)
            act = Act(
                "rolled_back",
                model,
                version=version,
                previous=begun.previous if begun else champion,
                asked_by=config.asked_by,
                reason=config.reason,
                checkpoint=_require_whole(tracking, datasets, model, version) if version else None,
            )
            write_record(act, step.out)
            done.append(act)
            return act.facts()

        yield from _done(context, config, datasets, tracking, build, done)

    return [rollback]


def _done(
    context: AssetExecutionContext,
    config: Asked,
    datasets: Datasets,
    tracking: MlflowTracking,
    build,
    done: list[Act],
) -> Iterator[MaterializeResult]:
    """The record, known to Dagster before anything moves; then the alias; then the audit log's line."""
    with failing_clearly(context):
        config.require(asset_name(context.asset_key))
    # With the run in its config no two records are taken for one: whoever asks again is recorded again.
    asked = {**config.model_dump(), "run_id": context.run_id}
    yield datasets.materialize(context, build, config=asked)
    # A second try of a run that keeps what is unchanged keeps the record of the first.
    act = done[0] if done else next(a for a in recorded_acts(context.instance) if a.run_id == context.run_id)
    with failing_clearly(context):
        tracking.move_alias(act.model, CHAMPION, act.version)
        told = {k: v for k, v in act.facts().items() if k != "action"}
        facts = {**told, "asset": asset_name(context.asset_key), "run_id": context.run_id}
        AuditLog(Path(datasets.home)).append(act.action, facts)
    context.log.info(
        f"{act.model}: version {act.version or 'none'} is in use, {act.previous or 'none'} before."
    )


def _require_allowed(
    context: AssetExecutionContext,
    datasets: Datasets,
    tracking: MlflowTracking,
    report: ReportSpec,
    judged: Dataset,
    step: Step,
) -> None:
    """Raises PromotionError unless this very verdict allows it, and was held against what is in use.

    The override of failed checks (`lineage/guards.py`) opens no door here.
    """
    from ehr_assets.reports.verdict import CRITERIA, read_verdict

    where = f"{asset_name(verdict_key(report.name))}, data version {judged.data_version[:12]}"
    found, name = read_verdict(judged.path), asset_name(verdict_key(report.name))
    again = (
        f"Judge it again: {launch_command(name)}, then {launch_command(asset_name(report_key(report.name)))}."
    )
    if not found["may_be_promoted"]:
        raise PromotionError(
            f"{report.candidate} may not be promoted: {' '.join(found['reasons'])}",
            where=where,
            do="Mend what is named, retrain and judge it again.",
        )
    wanted = sorted({*datasets.gates.get(name, []), *CRITERIA})
    if problems := failing_checks(context.instance, name, judged.data_version, wanted):
        raise PromotionError(
            f"The verdict's checks have not passed: {'; '.join(problems)}.", where=where, do=again
        )
    if step.overrides:
        raise PromotionError(
            f"Failed checks were passed over on the way to this candidate: {' '.join(step.overrides)}",
            where=where,
            do="Make it again without an override.",
        )
    beaten = verdict_to_beat(context.instance, datasets, tracking, report.name)
    held = (found["accepted"] or {}).get("data_version")
    if beaten is not None and beaten.data_version != held and beaten.verdict["versions"] != found["versions"]:
        raise PromotionError(
            "The verdict was held against another version than the one that is in use.", where=where, do=again
        )


def _version_of(tracking: MlflowTracking, model: str, trained: list[Dataset], datasets: Datasets) -> str:
    """The registry's version of the checkpoint that was judged, which must be its candidate."""
    where = f"model {model}"
    if len(trained) != 1:
        raise PromotionError(
            f"The candidate was trained {len(trained)} times, with a seed each, and one version is promoted.",
            where=where,
            do="Make a report whose candidate is a recipe without `seeds`.",
        )
    (checkpoint,) = trained
    same = {
        version: tags.get("dataset") == datasets.store.relative(checkpoint)
        for version, tags in tracking.versions(model).items()
        if tags.get("data_version") == checkpoint.data_version
    }
    # Equal contents are registered once each: the dataset itself if it is there, else its equal.
    version = next((v for v, itself in same.items() if itself), next(iter(same), None))
    if version is None:
        raise PromotionError(
            f"The checkpoint of '{model}' (version {checkpoint.data_version[:12]}) is not in the registry.",
            where=where,
            do=f"Register it, which keeps the checkpoint: `ehr dev`, then launch {checkpoint.manifest.asset} "
            "with the tag ehr/only_if_changed=true.",
        )
    if version != (candidate := tracking.alias(model, CANDIDATE)) and candidate not in same:
        raise PromotionError(
            f"The verdict is about version {version}, but the registry's candidate is {candidate or 'none'}.",
            where=where,
            do="Retrain and judge it, or put the alias `candidate` back on the version that was judged.",
        )
    return version


def _require_whole(tracking: MlflowTracking, datasets: Datasets, model: str, version: str) -> str:
    """The data version of a version's checkpoint, which must be there as it was committed."""
    tags = tracking.versions(model).get(version)
    if not tags or not {"asset", "dataset", "data_version"} <= tags.keys():
        raise PromotionError(
            f"Version {version} of '{model}' is not in the registry, or does not say where it lies.",
            where=f"model {model}",
            do="Name another version: --to VERSION.",
        )
    datasets.store.open(tags["asset"], tags["dataset"], data_version=tags["data_version"])
    return tags["data_version"]
