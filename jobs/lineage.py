"""Finding and verifying closures: what `ehr lineage` asks for, with raw files outside the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehr_assets.cohorts.origin import INVENTORY, tables_root
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.errors import DatasetError, RawTableError, StorageError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.closure import Closure, all_manifests, closure_of, file_of, located, require_located
from ehr_assets.lineage.collection import read_all
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.names import asset_and_partition
from ehr_assets.lineage.verifying import differences, sealed_manifests, vanished
from ehr_assets.settings import Settings
from jobs.models import dataset_of_model
from resources.object_store import open_store

CHECKPOINT = "/checkpoint"


@dataclass
class Verified:
    """What was looked at, and what differs: ``asset, file: what``. `notes`: what could not be looked at."""

    datasets: int = 0
    files: int = 0
    raw_files: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def located_anyhow(settings: Settings, name: str) -> str:
    """The dataset that a name stands for: of an asset, a model version, a data version or a directory.

    Raises:
        DatasetError: there is none.
    """
    store = open_store(settings.home, settings.remote)
    return located(store, name) or dataset_of_model(settings, name) or require_located(store, name)


def checkpoints(store: DatasetStore) -> list[str]:
    """All checkpoints that there are, oldest first, by their path below the storage root."""
    known = all_manifests(store)
    return [path for path, m in known if asset_and_partition(m.asset)[0].endswith(CHECKPOINT)]


def verify_closures(
    settings: Settings, store: DatasetStore, cohorts: Mapping[str, CohortSpec], name: str | None
) -> Verified:
    """Recomputes every hash of the closure of a dataset, or of all checkpoints.

    Args:
        cohorts: by name, to find the raw files that lie outside the store.

    Raises:
        DatasetError: there is no such dataset.
    """
    wanted = [located_anyhow(settings, name)] if name else checkpoints(store)
    log = AuditLog(settings.home)
    entries = list(log.entries())
    sealed = sealed_manifests(entries)
    done, seen = Verified(), set()
    if fault := log.verify().fault:  # who can edit a manifest may edit what the log says of it
        done.differences.append(f"The audit log: {fault}")
    if name is None:
        there, _, unreadable = read_all(store)
        bad = [place for place in unreadable if f"{CHECKPOINT}/" in place]
        done.differences += [f"{place}: its manifest cannot be read" for place in bad]
        gone = vanished(entries, {*there, *unreadable}, CHECKPOINT)
        # On an object store another machine may have collected it, and has that in its own log.
        lines = done.notes if settings.remote else done.differences
        lines += [
            f"{place}: it is gone, and no line of the audit log says that it was collected" for place in gone
        ]
    for dataset in wanted:
        whole = closure_of(store, dataset)
        new = [n for n in whole.nodes if n.dataset not in seen]
        seen |= {n.dataset for n in new}
        part = Closure(whole.of, new, [])
        done.datasets += len(new)
        done.files += sum(len(n.manifest.files) for n in new if n.manifest)
        done.differences += differences(store, part, sealed)
        for node in new:
            try:
                inventory = file_of(store, node, INVENTORY) if node.asset.endswith("/raw_tables") else None
            except StorageError:
                raise
            except DatasetError:  # named above
                continue
            cohort = cohorts.get(node.asset.rpartition("/")[0])
            if inventory is None:
                continue
            if cohort is None:
                done.notes.append(f"{node.asset}: its cohort is no longer defined; raw files not looked at.")
                continue
            try:
                tables_root(cohort, inventory.parent)
                done.raw_files += int((node.manifest.stats if node.manifest else {}).get("raw_files", 0))
            except RawTableError as e:
                done.notes.append(f"{node.asset}: raw files not looked at. {e.what}")
            except DatasetError as e:
                done.differences.append(f"{node.asset}, {e.where}: {e.what}")
    if alone := sorted(place for place in seen if place not in sealed):
        done.notes.append(
            f"Of {len(alone)} datasets this machine's audit log has no hash of the manifest (their run has "
            "not ended, or ran elsewhere or before there was a log): they have their manifest's word alone."
        )
    return done
