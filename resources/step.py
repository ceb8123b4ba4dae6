"""What a stage's body is given by the asset around it, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.fanout import Machine
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.workspace import Workspace
from ehr_assets.progress import Progress


@dataclass
class Step:
    """What a stage's body gets: where to write, its verified inputs, what it may use, where to report.

    `work`: for what takes long, a folder that outlives this process until the dataset is committed; the next
    run with the same code, inputs and settings finds it again.

    `inputs` by asset; those of which every partition is read, by asset and partition (`lineage/names.py`).
    """

    out: Path
    work: Workspace
    inputs: Mapping[str, Dataset]
    progress: Progress
    log: Any
    run_id: str
    overrides: Sequence[str]
    machine: Machine


Stats = dict[str, Any]
"""What a stage's body gives back for the manifest: counts and scores, never a raw value."""
