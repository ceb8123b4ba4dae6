"""`ehr status` and `ehr show`: what there is, without running anything."""

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ehr_assets.catalog import unknown
from ehr_assets.lineage.names import asset_and_partition
from jobs.cli.project import Project
from jobs.status import State, locate

STYLES = {State.FRESH: "green", State.STALE: "yellow", State.MISSING: "dim", State.FAILED_CHECK: "red"}


def show_status(console: Console) -> None:
    """Prints a line per asset: state, data version, reasons."""
    project = Project()
    table = Table(box=None, pad_edge=False)
    for column in ("asset", "state", "version", "why"):
        table.add_column(column, no_wrap=column != "why", overflow="fold")
    for s in project.statuses().values():
        table.add_row(
            s.name,
            f"[{STYLES[s.state]}]{s.state}{s.extent}[/]",
            (s.data_version or "")[:8],
            escape("; ".join(s.reasons)),
        )
    console.print(table)


def show_asset(console: Console, name: str, *, path_only: bool) -> None:
    """Prints where the asset's newest dataset lies and its manifest in short.

    Raises:
        SpecError: no such asset.
        DatasetError: never materialized.
    """
    project = Project()
    statuses = project.statuses()
    names = [s.name for s in statuses.values()]
    if asset_and_partition(name)[0] not in names:
        raise unknown("asset", name, names, "ehr show")
    status = locate(statuses, name)
    dataset = project.dataset(statuses, name)
    path, m = dataset.path, dataset.manifest
    if path_only:
        console.print(str(path), soft_wrap=True, highlight=False)
        return
    table = Table("key", Column("value", overflow="fold"), box=None, show_header=False, pad_edge=False)
    why = f" ({'; '.join(status.reasons)})" if status.reasons else ""
    rows = {
        "asset": name,
        "state": f"{status.state}{why}",
        "path": str(path),
        "data version": m.data_version,
        "code version": m.code_version,
        "made from": "\n".join(f"{i.asset} @ {i.data_version[:12]}" for i in m.inputs) or "raw sources",
        "files": f"{len(m.files)}, {m.total_bytes / 1e6:.1f} MB, {sum(m.row_counts.values()):,} rows",
        "committed": f"{m.committed_at:%Y-%m-%d %H:%M:%S} UTC, run {m.run_id}",
        "git revision": m.git_revision or "(not a checkout)",
        "counts": "\n".join(f"{k}: {v}" for k, v in m.stats.items() if isinstance(v, int | float | str)),
        "overrides": "\n".join(m.overrides) or "none",
    }
    for key, value in rows.items():
        table.add_row(f"[dim]{key}[/]", escape(value))
    console.print(table, soft_wrap=False)
