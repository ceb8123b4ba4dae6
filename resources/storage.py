"""Storage: what every asset does around its own work, written once.

`Datasets.materialize` opens the gates, reuses an earlier result if asked to, stages, calls the stage's pure
function, commits, and reports to Dagster. Assets stay a few lines long.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    ConfigurableResource,
    DagsterInstance,
    MaterializeResult,
)

from ehr_assets.errors import DatasetError, EhrError, StorageError
from ehr_assets.fanout import Machine
from ehr_assets.lineage.ancestry import ancestors, names_above
from ehr_assets.lineage.datasets import Dataset, DatasetStore, rebuild_hint
from ehr_assets.lineage.guards import DATA_VERSION_KEY, require_common_ancestry, require_passed_checks
from ehr_assets.lineage.manifest import InputEntry, now
from ehr_assets.lineage.names import asset_and_partition, dataset_name
from ehr_assets.lineage.subjects import Roles, SubjectLists
from ehr_assets.lineage.workspace import Workspace
from ehr_assets.progress import LogProgress
from resources.audit import check_failed, check_overridden, run_begins
from resources.object_store import open_store
from resources.recorded import all_recorded, recorded
from resources.retries import failing_clearly
from resources.shown import NOTHING_MORE, Shown, result
from resources.step import Stats, Step

ONLY_IF_CHANGED_TAG = "ehr/only_if_changed"


Subjects = Callable[[Dataset, Mapping[str, Dataset]], Roles]
"""Of a committed dataset and its inputs by name: whose records it was made of, in which roles."""


def asset_name(key: AssetKey) -> str:
    return "/".join(key.path)


class Datasets(ConfigurableResource):
    """The dataset store, and the gates between assets.

    Args:
        home: storage root (`EHR_HOME`), or the cache of the one on an object store.
        remote: that object store's address.
        gates: the blocking checks of every asset, by asset key.
        partitions: of the assets that have any, by asset key. Such an asset reads the same partition of
            another one; an asset without partitions reads them all.
    """

    home: str
    remote: str = ""
    gates: dict[str, list[str]]
    partitions: dict[str, list[str]] = {}  # noqa: RUF012 (pydantic copies it)

    @property
    def store(self) -> DatasetStore:
        return open_store(Path(self.home), self.remote)

    def latest(self, instance: DagsterInstance, key: AssetKey, partition: str | None = None) -> Dataset:
        """The dataset of the newest materialization that Dagster knows, verified."""
        asset = dataset_name(asset_name(key), partition)
        found = recorded(instance, asset)
        if found is None:
            raise DatasetError(
                f"'{asset}' has not been materialized yet.", where=self.home, do=rebuild_hint(asset)
            )
        return self.store.open(asset, found.dataset, data_version=found.data_version)

    def judged(self, context: AssetCheckExecutionContext, key: AssetKey) -> Dataset:
        """The newest dataset of an asset, which a check of it is about: of the check's partition, if any."""
        run_begins(Path(self.home), context.instance, context.op_execution_context.run_id)
        partition = context.partition_key if asset_name(key) in self.partitions else None
        return self.latest(context.instance, key, partition)

    def used(self, instance: DagsterInstance, dataset: Dataset, key: AssetKey) -> Dataset:
        """The dataset of `key` that `dataset` was made from, however far up, verified.

        What a check holds a dataset against must be this: the newest may be another by now. Of a
        partitioned asset it is the dataset's own partition.

        Raises:
            DatasetError: it was not made from that asset, or from several versions of it.
        """
        own = asset_and_partition(dataset.manifest.asset)[1] if asset_name(key) in self.partitions else None
        asset = dataset_name(asset_name(key), own)
        versions = self._ancestors(instance, [dataset]).get(asset, {})
        if len(versions) != 1:
            raise DatasetError(
                f"The dataset was made from {len(versions)} versions of '{asset}', not one.",
                where=f"{dataset.manifest.asset}: {dataset.path}",
                do=rebuild_hint(dataset.manifest.asset),
            )
        (entry,) = versions.values()
        return self.store.open(asset, entry.dataset, data_version=entry.data_version)

    def materialize(
        self,
        context: AssetExecutionContext,
        body: Callable[[Step], Stats],
        *,
        key: AssetKey | None = None,
        config: dict[str, Any] | None = None,
        seed: int | None = None,
        volatile: tuple[str, ...] = (),
        shown: Shown = NOTHING_MORE,
        subjects: Subjects | None = None,
    ) -> MaterializeResult:
        """Runs `body` between opened gates and a committed dataset.

        Args:
            key: of the asset, where the definition makes several.
            config, seed: for the manifest. A partition whose config is another one is made anew.
            volatile: files that differ between equal runs (clock readings); not in the content hash.
            shown: what Dagster's pages show of it.
            subjects: whose records it is made of, of assets that "who was in it?" is asked about.

        Every error a user can act on becomes a `Failure` whose description stands alone; only what may pass
        is tried again (`retries.py`).
        """
        key = key or context.asset_key
        partition = context.partition_key if asset_name(key) in self.partitions else None
        name = dataset_name(asset_name(key), partition)
        spec = context.assets_def.specs_by_key[key]
        code_version = spec.code_version or ""
        with failing_clearly(context):
            run_begins(Path(self.home), context.instance, context.run_id)
            inputs, overrides = self._open_inputs(context, [dep.asset_key for dep in spec.deps], partition)
            entries = [
                InputEntry(
                    asset=d.manifest.asset, data_version=d.data_version, dataset=self.store.relative(d)
                )
                for d in inputs.values()
            ]
            last = self._unchanged(context, name, code_version, config, entries, overrides)
            if last and entries:
                context.log.info(f"{name}: inputs, code and settings unchanged; kept.")
                self._keep_subjects(subjects, last, inputs)
                return result(self.store, key, last, shown, {"kept": True})
            started = now()
            made_from = _made_from(code_version, entries, config, seed)
            with (
                self.store.making(name, context.run_id),
                self.store.staging() as staged,
                self.store.workspace(name, made_from, context.log.info) as work,
            ):
                if found := self._made_earlier(context, name, work):
                    context.log.info(f"{name}: made earlier from the same code, inputs and settings; kept.")
                    self._keep_subjects(subjects, found, inputs)
                    return result(self.store, key, found, shown, {"kept": True})
                progress = LogProgress(context.log)
                machine = Machine.from_env()
                step = Step(staged, work, inputs, progress, context.log, context.run_id, overrides, machine)
                stats = self._run_body(body, step)
                dataset = self.store.commit(
                    staged,
                    asset=name,
                    code_version=code_version,
                    started_at=started,
                    inputs=entries,
                    config=config,
                    seed=seed,
                    stats=stats,
                    overrides=overrides,
                    run_id=context.run_id,
                    volatile=volatile,
                    unless=last,  # of what has no inputs, only its content can tell
                )
                work.discard(self.store.relative(dataset))
            self._keep_subjects(subjects, dataset, inputs)
            return result(self.store, key, dataset, shown, {"kept": True} if dataset is last else None)

    def _keep_subjects(
        self, subjects: Subjects | None, dataset: Dataset, inputs: Mapping[str, Dataset]
    ) -> None:
        lists, place = SubjectLists(Path(self.home)), self.store.relative(dataset)
        if subjects is not None and not lists.has(place):
            lists.keep(place, subjects(dataset, inputs))

    def judge(
        self,
        dataset: Dataset,
        passed: bool,
        metadata: Mapping[str, Any] | None = None,
        *,
        check_name: str | None = None,
        description: str | None = None,
        warns: bool = False,
    ) -> AssetCheckResult:
        """A check result tied to the data version it judged, which is what the gates look up.

        `warns`: a failure is something for a person to look at, no error.
        """
        if not passed:
            check_failed(Path(self.home), dataset.manifest, check_name, warns=warns)
        return AssetCheckResult(
            passed=passed,
            severity=AssetCheckSeverity.WARN if warns else AssetCheckSeverity.ERROR,
            asset_key=AssetKey(asset_and_partition(dataset.manifest.asset)[0].split("/")),
            check_name=check_name,
            description=description,
            metadata={**(metadata or {}), DATA_VERSION_KEY: dataset.data_version},
        )

    def _open_inputs(
        self, context: AssetExecutionContext, deps: list[AssetKey], partition: str | None
    ) -> tuple[dict[str, Dataset], list[str]]:
        inputs: dict[str, Dataset] = {}
        overrides: list[str] = []
        for dep, name, part in self._to_read(deps, partition):
            inputs[name] = self.latest(context.instance, dep, part)
            gates = self.gates.get(asset_name(dep), [])
            for line in require_passed_checks(context.instance, inputs[name], gates):
                if line not in overrides:
                    overrides.append(line)
                    self._overridden(context, line, known=line in inputs[name].manifest.overrides)
        together = list(inputs.values())
        for line in require_common_ancestry(together, self._ancestors(context.instance, together)):
            overrides.append(line)
            self._overridden(context, line)
        return inputs, overrides

    def _overridden(self, context: AssetExecutionContext, line: str, *, known: bool = False) -> None:
        """`known`: an asset further up was started regardless, and it was recorded then."""
        context.log.warning(f"Gate overridden: {line}")
        if not known:
            check_overridden(Path(self.home), context.run_id, asset_name(context.asset_key), line)

    def _to_read(
        self, deps: list[AssetKey], partition: str | None
    ) -> Iterator[tuple[AssetKey, str, str | None]]:
        """(asset, its name in `Step.inputs`, partition) of all datasets that these dependencies stand for."""
        for dep in deps:
            name = asset_name(dep)
            if name not in self.partitions:
                yield dep, name, None
            elif partition is not None:
                yield dep, name, partition
            else:
                yield from ((dep, dataset_name(name, part), part) for part in self.partitions[name])

    def _ancestors(
        self, instance: DagsterInstance, datasets: Sequence[Dataset]
    ) -> dict[str, dict[str, InputEntry]]:
        # One query for all: with one for each, a chain's cost would grow with the square of its length.
        known = all_recorded(instance, names_above(self.store, datasets))

        def newest(name: str) -> InputEntry | None:
            if name not in known:
                known[name] = recorded(instance, name)
            return known[name]

        return ancestors(self.store, datasets, newest)

    def _unchanged(
        self,
        context: AssetExecutionContext,
        name: str,
        code_version: str,
        config: dict[str, Any] | None,
        inputs: list[InputEntry],
        overrides: list[str],
    ) -> Dataset | None:
        """The last dataset, if the run asks for changes only and nothing that made it has changed.

        Dagster's selection is fixed when a run starts, so descendants of a stale asset are in it even when
        the asset then comes out with the same content; this spares them (a training, for one).
        """
        if context.run.tags.get(ONLY_IF_CHANGED_TAG) != "true":
            return None
        asset, partition = asset_and_partition(name)
        try:
            last = self.latest(context.instance, AssetKey(asset.split("/")), partition)
        except StorageError:  # not the dataset's fault: nothing is made anew for it
            raise
        except DatasetError:
            return None
        m = last.manifest
        # Not in the code version: a partition's settings (Dagster has one of the asset as a whole), what a
        # verdict was held against, who asked for a promotion.
        if m.config != json.loads(json.dumps(config or {}, default=str)):
            return None
        same_inputs = {(i.asset, i.data_version) for i in m.inputs} == {
            (i.asset, i.data_version) for i in inputs
        }
        same = m.code_version == code_version and same_inputs and m.overrides == overrides
        return last if same else None

    def _made_earlier(self, context: AssetExecutionContext, name: str, work: Workspace) -> Dataset | None:
        """What was committed from this work folder, if it is not the newest that Dagster knows.

        The run that made it died before it could say so, or other settings were tried since.
        """
        committed = work.committed()
        if committed is None:
            return None
        known = recorded(context.instance, name)
        if known and known.dataset == committed:
            return None
        try:
            return self.store.open(name, committed)
        except StorageError:  # not the dataset's fault: nothing is made anew for it
            raise
        except DatasetError:
            return None

    def _run_body(self, body: Callable[[Step], Stats], step: Step) -> Stats:
        try:
            return body(step)
        except EhrError:
            raise
        except Exception as e:
            # Arrow and polars report a full disk in their own exception types.
            if "No space left on device" in str(e):
                raise OSError(28, "No space left on device") from e
            raise


def _made_from(
    code_version: str, inputs: Sequence[InputEntry], config: Mapping[str, Any] | None, seed: int | None
) -> list[str]:
    """All that decides about a dataset's content, for the name of its work folder."""
    settings = json.dumps([config, seed], sort_keys=True, default=str)
    return [code_version, settings, *sorted(f"{i.asset} {i.data_version}" for i in inputs)]
