"""The probes of a recipe: can the outcome be read off the frozen embedding S(t) by a simple model?

Per task on the same embedding (SMB-Structure §4, "single-embedding, multi-task"): a logistic regression, a
ridge regression where the outcome is a number, a Cox model where it is a time.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.probes.frames import CohortDirs, load_embeddings, read_nodes
from ehr_assets.probes.indications import ByIndication
from ehr_assets.probes.linear import fit_logistic, fit_ridge
from ehr_assets.probes.rows import Fit, How, Kind
from ehr_assets.probes.run import Contender, Field, Rules, run
from ehr_assets.probes.spec import ProbeSpec
from ehr_assets.probes.survival import fit_cox
from ehr_assets.progress import Progress, no_progress

PROBES = (
    Contender("logistic", {"binary": fit_logistic}),
    Contender("ridge", {"regression": fit_ridge}),
    Contender("cox", {"time_to_event": fit_cox}),
)


def probe_recipe(
    recipe: str,
    embeddings_dir: Path,
    cohorts: Mapping[str, CohortDirs],
    out_dir: Path,
    spec: ProbeSpec,
    *,
    seed: int = 1,
    machine: Machine = ONE_WORKER,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Probes one recipe's embeddings on every task of every cohort given.

    Args:
        recipe: written into the `recipe` column.
        embeddings_dir: the `<recipe>/node_embeddings` dataset.
        cohorts: cohort name -> its nodes, labels and splits. Probes are fitted per cohort.
        seed: of the recipe, written into the `seed` column; the fits themselves are deterministic.

    Writes what `run` does. Nodes without a finite embedding are left out of fit and score, and counted.
    """
    probes: list[Contender] = list(PROBES) if "pooled" in spec.fit else []
    if "by_indication" in spec.fit:
        probes += [by_indication(probe, spec) for probe in PROBES]

    def fields() -> Iterator[Field]:
        for name, dirs in sorted(cohorts.items()):
            nodes = read_nodes(name, dirs)
            X = load_embeddings(embeddings_dir, nodes)
            usable = np.asarray(np.isfinite(X).all(axis=1))
            yield Field(nodes, dirs, {"X": X}, usable, probes)

    rules = Rules(recipe, spec, How(seed, spec.folds))
    return run(fields(), rules, out_dir, machine=machine, progress=progress)


def by_indication(probe: Contender, spec: ProbeSpec) -> Contender:
    """The same probe, fitted in each indication by itself."""
    enough = spec.min_samples, spec.min_positives
    fits: dict[Kind, Fit] = {kind: ByIndication(fit, *enough) for kind, fit in probe.fits.items()}
    return Contender(f"{probe.probe}_by_indication", fits, probe.matrix)
