"""Dagster assets of this room: `<cohort>/raw_tables`, and `<cohort>/latent_truth` of simulated cohorts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    asset,
    multi_asset,
)

from ehr_assets.cohorts.spec import CohortSpec, SyntheticSource
from ehr_assets.cohorts.synthetic.registry import simulator_sources
from ehr_assets.lineage.hashing import code_version
from resources.storage import Datasets, Shown, Stats, Step


def raw_tables_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "raw_tables"])


def latent_truth_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "latent_truth"])


def is_simulated(cohort: CohortSpec) -> bool:
    return isinstance(cohort.source, SyntheticSource)


def cohort_assets(cohort: CohortSpec) -> list[AssetsDefinition]:
    return [_simulated(cohort) if is_simulated(cohort) else _found(cohort)]


def _simulated(cohort: CohortSpec) -> AssetsDefinition:
    source = cohort.source
    assert isinstance(source, SyntheticSource)
    version = code_version(simulator_sources(source.simulator), cohort.config_hash("source"))
    raw, truth = raw_tables_key(cohort.name), latent_truth_key(cohort.name)

    @multi_asset(
        name=f"{cohort.name}__simulated_tables",
        can_subset=True,
        group_name=cohort.name,
        specs=[
            AssetSpec(
                raw,
                skippable=True,
                code_version=version,
                kinds={"csv"},
                description="OMOP-shaped raw tables of simulated subjects, as a hospital would hand over.",
            ),
            AssetSpec(
                truth,
                skippable=True,
                code_version=version,
                kinds={"parquet"},
                description="The simulator's latent states. Only the oracle ceiling may read them.",
            ),
        ],
    )
    def simulated_tables(context: AssetExecutionContext, datasets: Datasets) -> Iterator[MaterializeResult]:
        from ehr_assets.cohorts.synthetic.simulate import WORKER_BYTES, simulate

        config = source.model_dump(mode="json")
        with datasets.store.staging() as both:
            truth_dir = both / "truth"
            truth_dir.mkdir()

            def run(tables_dir: Path, truth_dir: Path, step: Step) -> Stats:
                tables_dir.mkdir()
                return simulate(
                    source.simulator,
                    tables_dir,
                    truth_dir,
                    subjects=source.subjects,
                    seed=source.seed,
                    workers=step.machine.workers_of(WORKER_BYTES),
                    progress=step.progress,
                )

            def tables(step: Step) -> Stats:
                return run(step.out / "tables", truth_dir, step)

            def latent(step: Step) -> Stats:
                if raw not in context.selected_asset_keys:  # simulated again, for its truth alone
                    run(both / "tables", truth_dir, step)
                shutil.copytree(truth_dir, step.out, dirs_exist_ok=True)
                return {}

            bodies = {raw: (tables, Shown()), truth: (latent, Shown(schema_of="latent_states"))}
            for key, (body, shown) in bodies.items():
                if key in context.selected_asset_keys:
                    yield datasets.materialize(
                        context, body, key=key, config=config, seed=source.seed, shown=shown
                    )

    return simulated_tables


def _found(cohort: CohortSpec) -> AssetsDefinition:
    @asset(
        key=raw_tables_key(cohort.name),
        group_name=cohort.name,
        kinds={"csv"},
        code_version=code_version(["cohorts/origin.py"], cohort.config_hash("source", "tables")),
        description="The raw tables where they lie, as an inventory of their hashes. Nothing is copied.",
    )
    def raw_tables(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.cohorts.origin import write_inventory

        def build(step: Step) -> Stats:
            return write_inventory(cohort, step.out, step.progress)

        return datasets.materialize(context, build, config=cohort.source.model_dump(mode="json"))

    return raw_tables
