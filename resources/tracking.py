"""MLflow: one run per training, opened and closed by the asset, filled by rank 0; and its model registry.

mlflow refuses `file://` and is slow to import: SQLite by default, imported only when a run starts.
"""

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dagster import ConfigurableResource, get_dagster_logger

from ehr_assets.errors import TrackingError, TrainingError
from ehr_assets.settings import TRACKING_VARIABLE

MAX_PARAM = 500
"""MLflow's databases hold this many characters of a parameter."""
MOST_AT_ONCE = 100
"""MLflow takes so many parameters, or tags, in one request."""
RUN_FILE = "mlflow_run_id"
"""In a training's work folder: the MLflow run that it was last told to."""
CANDIDATE = "candidate"
"""The alias of the newest version of a model."""
CHAMPION = "champion"
"""The alias of the version of a model that is in use: moved by promotions and rollbacks alone."""
POINTER = "checkpoint"
"""The artifact of a run that says where the checkpoint lies, where a server takes no path of ours."""


class MlflowTracking(ConfigurableResource):
    """Where trainings are tracked, and checkpoints registered.

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
            # With the run itself: whatever fails then, `close_abandoned` finds it by its tags.
            first, *more = _parts([RunTag(name, str(value)) for name, value in tags.items()]) or [[]]
            given = {tag.key: tag.value for tag in first}
            run_id = client.create_run(experiment, run_name=run_name, tags=given).info.run_id
            for some in more:
                client.log_batch(run_id, tags=some)
            for some in _parts([Param(name, text[:MAX_PARAM]) for name, text in _flat(params)]):
                client.log_batch(run_id, params=some)
        return run_id

    def told(self, run_id: str) -> dict[str, str | None]:
        """An open run as a training's job file names it: without an address that the environment has, too."""
        known = os.environ.get(TRACKING_VARIABLE) == self.uri
        return {"uri": None if known else self.uri, "run_id": run_id}

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Closes a run: FINISHED, FAILED or KILLED."""
        with _said_clearly(self.uri):
            self._client().set_terminated(run_id, status=status)

    @contextmanager
    def run(
        self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any], work: Path | None = None
    ) -> Iterator[str]:
        """A run around a block; gives its id. FAILED when the block raises, KILLED when it is interrupted.

        Args:
            work: the training's work folder. A training that is taken up there goes on in a run of its own,
                tagged with the one before.
        """
        file = work / RUN_FILE if work else None
        before = file.read_text(encoding="utf-8").strip() if file and file.is_file() else None
        run_id = self.start(run_name, {**tags, **({"resumed_from": before} if before else {})}, params)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(run_id + "\n", encoding="utf-8")
        try:
            yield run_id
        except BaseException as e:
            self._finish_if_possible(run_id, "FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        self._finish_if_possible(run_id, "FINISHED")

    def _finish_if_possible(self, run_id: str, status: str) -> None:
        """A server that is gone by now takes neither hours of training with it nor the error of a block."""
        try:
            self.finish(run_id, status)
        except TrainingError as e:
            get_dagster_logger().warning(f"The MLflow run {run_id} could not be closed as {status}. {e}")

    def close_abandoned(self, dagster_run_id: str) -> None:
        """Closes as KILLED what a Dagster run left open whose process is gone."""
        with _said_clearly(self.uri):
            client = self._client()
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment:
                query = f"tags.`dagster.run_id` = '{dagster_run_id}' and attributes.status = 'RUNNING'"
                for run in client.search_runs([experiment.experiment_id], query):
                    client.set_terminated(run.info.run_id, status="KILLED")

    def register(
        self, model: str, run_id: str, folder: Path, tags: Mapping[str, str], address: str = ""
    ) -> str:
        """The version of a model that is this committed checkpoint, made where there is none yet.

        A new version becomes the model's `candidate`, and its run is tagged with it. The version's tags lead
        back to the dataset; its source is the folder or, where the store is a server (which takes no path of
        its clients' disks), an artifact of the run that names the folder.

        Args:
            model: its name; made when it is missing.
            run_id: the MLflow run of the training.
            folder: the checkpoint's dataset.
            address: where it lies on an object store, of which the folder is the cache.
            tags: with `dataset` and `data_version`, by which the version is known again.

        Raises:
            TrackingError: the registry cannot be used.
        """
        with _said_clearly(self.uri):
            client = self._client()
            if found := self._version(client, model, tags):
                return found
            _create_model(client, model)
            made = client.create_model_version(
                model,
                self._source(client, run_id, address or folder.as_uri(), tags),
                run_id=run_id,
                tags=dict(tags),
            )
            client.set_registered_model_alias(model, CANDIDATE, made.version)
            for name, value in {"model_version": f"{model}/{made.version}", **tags}.items():
                client.set_tag(run_id, name, value)
            return str(made.version)

    def in_use(self) -> dict[str, str]:
        """Place of a dataset → ``alias of model``: the checkpoints behind the aliases of registered models.

        Raises:
            TrainingError: the registry cannot be used.
        """
        file = self.uri.removeprefix("sqlite:///")
        if file != self.uri and not Path(file).exists():
            return {}
        found, token, client = {}, None, self._client()
        with _said_clearly(self.uri):
            while True:
                page = client.search_registered_models(page_token=token)
                for model, alias in ((m, alias) for m in page for alias in m.aliases):
                    version = client.get_model_version_by_alias(model.name, alias)
                    if place := version.tags.get("dataset"):
                        found[place] = f"{alias} of {model.name}"
                token = page.token
                if not token:
                    return found

    @contextmanager
    def registry(self) -> Iterator[Any]:
        """MLflow's client, for questions to the registry. Raises TrackingError where it cannot be used."""
        with _said_clearly(self.uri):
            yield self._client()

    def alias(self, model: str, alias: str) -> str | None:
        """The version of a model that has this alias; None where none has. Raises TrackingError."""
        with _said_clearly(self.uri):
            found = (m for m in self._client().search_registered_models(f"name='{model}'") if m.name == model)
            version = next((m.aliases.get(alias) for m in found), None)
            return None if version is None else str(version)

    def move_alias(self, model: str, alias: str, version: str | None) -> None:
        """Gives an alias to a version of a model, or takes it off the model. Raises TrackingError."""
        with _said_clearly(self.uri):
            client = self._client()
            if version is None:
                client.delete_registered_model_alias(model, alias)
            else:
                client.set_registered_model_alias(model, alias, version)

    def versions(self, model: str) -> dict[str, dict[str, str]]:
        """Version → its tags, of a model, the newest first. Raises TrackingError."""
        with _said_clearly(self.uri):
            return {str(v.version): dict(v.tags) for v in _versions(self._client(), model)}

    def _version(self, client: Any, model: str, tags: Mapping[str, str]) -> str | None:
        """The newest version of this very dataset."""
        known = ("dataset", "data_version")
        same = (v for v in _versions(client, model) if all(v.tags.get(k) == tags[k] for k in known))
        return next((str(v.version) for v in same), None)

    def _source(self, client: Any, run_id: str, uri: str, tags: Mapping[str, str]) -> str:
        if not self.uri.startswith(("http://", "https://")):
            return uri
        with tempfile.TemporaryDirectory() as place:
            pointer = Path(place) / "checkpoint.json"
            content = {"path": unquote(uri.removeprefix("file://")), **tags}
            pointer.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            client.log_artifact(run_id, str(pointer), POINTER)
        return f"runs:/{run_id}/{POINTER}"

    def _client(self) -> Any:
        if self.uri.startswith("file:") or "://" not in self.uri:
            raise TrainingError(
                "MLflow no longer writes to plain folders.",
                where=f"MLflow tracking URI: {without_credentials(self.uri)}",
                do="Use sqlite:///FILE, a database URL or an MLflow server's http URL.",
            )
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial tables..."
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # Without it a registry that something else in this process has set would be taken.
        return MlflowClient(self.uri, registry_uri=self.uri)


def _create_model(client: Any, model: str) -> None:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there; if that was not it, what follows says so
        client.create_registered_model(model)


def _versions(client: Any, model: str) -> Sequence[Any]:
    """Of a model, the newest first; none of one that is not there."""
    return client.search_model_versions(f"name='{model}'", order_by=["version_number DESC"])


@contextmanager
def _said_clearly(uri: str) -> Iterator[None]:
    try:
        yield
    except TrainingError:
        raise
    except Exception as e:
        shown = without_credentials(uri)
        raise TrackingError(
            f"The MLflow tracking store cannot be used: {type(e).__name__}.",
            where=shown,
            do="Check that it is reachable and of this MLflow's version (`mlflow db upgrade URI`).",
        ) from (e if shown == uri else None)  # MLflow's own words quote the URI, and Dagster keeps them


def without_credentials(uri: str) -> str:
    """A URI as it may be shown: of a server or database, without user, password and options."""
    return uri if uri.startswith("sqlite:") else re.sub(r"(?<=://).*@", "", uri).partition("?")[0]


def _parts(items: list[Any]) -> list[list[Any]]:
    """What goes into one request each."""
    return [items[first : first + MOST_AT_ONCE] for first in range(0, len(items), MOST_AT_ONCE)]


def _flat(params: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by dotted names; lists of mappings by number."""
    if isinstance(params, Mapping):
        for name, value in params.items():
            yield from _flat(value, f"{prefix}{name}.")
    elif isinstance(params, Sequence) and any(isinstance(item, Mapping) for item in params):
        for i, item in enumerate(params):
            yield from _flat(item, f"{prefix}{i}.")
    else:
        yield prefix.removesuffix("."), str(params)
