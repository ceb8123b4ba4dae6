"""The job file: everything one training run is told, as JSON. Written by the asset, read by every rank."""

from pathlib import Path

from pydantic import Field

from ehr_assets.specs import Spec
from ehr_assets.training.recipe import RecipeSpec


class Tracking(Spec):
    """An MLflow run that is already open. `uri` None: in the store that the environment names
    (MLFLOW_TRACKING_URI), because that may hold a password, and job files lie on disks."""

    uri: str | None
    run_id: str


class TrainingJob(Spec):
    """One training run.

    Attributes:
        recipe: what to train.
        token_corpus: folder with `{train,tuning}/*.arrow`.
        tokenizer: the corpus's tokenizer folder.
        out_dir: where the checkpoint is written; exists and is empty.
        nodes: cohort → its `decision_nodes`; needed where `data.cuts.nodes` is not zero.
        work_dir: where a training keeps how far it is, for the next one that is given the same folder. On
            storage that all hosts share. None: in `out_dir`, until the checkpoint is written.
        start_from: checkpoint folder of the recipe that this one continues.
        tracking: where losses also go; None for nowhere.
        facts: what the model card shall say of the origins (data versions, git revision), name to text.
        log_every: steps between two lines in the run's log.
    """

    recipe: RecipeSpec
    token_corpus: str
    tokenizer: str
    out_dir: str
    nodes: dict[str, str] = Field(default_factory=dict)
    work_dir: str | None = None
    start_from: str | None = None
    tracking: Tracking | None = None
    facts: dict[str, str] = Field(default_factory=dict)
    log_every: int = 10

    @property
    def work(self) -> Path:
        return Path(self.work_dir) if self.work_dir else Path(self.out_dir) / ".work"
