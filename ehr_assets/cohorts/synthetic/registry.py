"""Simulators by the name a cohort spec uses in `source: {kind: synthetic, simulator: <name>}`.

Light on purpose: a simulator's own modules are imported only when it runs, so that specs can be checked
against the names while definitions load.
"""

from collections.abc import Callable
from pathlib import Path

from ehr_assets.progress import Progress, no_progress


def _oncology(
    tables_dir: Path, truth_dir: Path, *, subjects: int, seed: int, progress: Progress = no_progress
) -> dict[str, int]:
    """See `oncology.simulate_oncology`."""
    from ehr_assets.cohorts.synthetic.oncology import simulate_oncology

    return simulate_oncology(tables_dir, truth_dir, subjects=subjects, seed=seed, progress=progress)


SIMULATORS: dict[str, Callable[..., dict[str, int]]] = {"oncology": _oncology}
