"""MLflow tracking: one MLflow run per training, opened and closed by the asset, filled by rank 0.

mlflow refuses `file://` and is slow to import: SQLite by default, imported only when a run starts.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource

from ehr_assets.errors import TrainingError

MAX_PARAM = 500
"""MLflow's databases hold this many characters of a parameter."""


class MlflowTracking(ConfigurableResource):
    """Where trainings are tracked.

    Args:
        uri: the tracking URI, e.g. `sqlite:////data/mlflow.db`, `postgresql://…`, `http://mlflow:5000`.
        experiment: the MLflow experiment; created when it is missing.
    """

    uri: str
    experiment: str = "ehr-assets"

    def start(self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Opens a run and returns its id. Nested `params` are flattened to dotted names."""
        from mlflow.entities import Param, RunTag

        with _said_clearly(self.uri):
            client = self._client()
            found = client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else client.create_experiment(self.experiment)
            run = client.create_run(experiment, run_name=run_name)
            client.log_batch(
                run.info.run_id,
                params=[Param(name, text[:MAX_PARAM]) for name, text in _flat(params)],
                tags=[RunTag(name, str(value)) for name, value in tags.items()],
            )
        return run.info.run_id

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Closes a run: FINISHED, FAILED or KILLED."""
        with _said_clearly(self.uri):
            self._client().set_terminated(run_id, status=status)

    @contextmanager
    def run(self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[str]:
        """A run around a block; gives its id. FAILED when the block raises, KILLED when it is interrupted."""
        run_id = self.start(run_name, tags, params)
        try:
            yield run_id
        except BaseException as e:
            self.finish(run_id, "FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        self.finish(run_id)

    def close_abandoned(self, dagster_run_id: str) -> None:
        """Closes as KILLED what a Dagster run left open whose process is gone."""
        with _said_clearly(self.uri):
            client = self._client()
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment:
                query = f"tags.`dagster.run_id` = '{dagster_run_id}' and attributes.status = 'RUNNING'"
                for run in client.search_runs([experiment.experiment_id], query):
                    client.set_terminated(run.info.run_id, status="KILLED")

    def _client(self) -> Any:
        if self.uri.startswith("file:") or "://" not in self.uri:
            raise TrainingError(
                "MLflow no longer writes to plain folders.",
                where=f"MLflow tracking URI: {self.uri}",
                do="Use sqlite:///FILE, a database URL or an MLflow server's http URL.",
            )
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial tables..."
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(self.uri)


@contextmanager
def _said_clearly(uri: str) -> Iterator[None]:
    try:
        yield
    except TrainingError:
        raise
    except Exception as e:
        raise TrainingError(
            f"The MLflow tracking store cannot be used: {type(e).__name__}.",
            where=uri,
            do="Check that it is reachable and of this MLflow's version (`mlflow db upgrade URI`).",
        ) from e


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
