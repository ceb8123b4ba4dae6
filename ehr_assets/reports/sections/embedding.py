"""A map of S(t): held-out nodes on the two principal components that train nodes vary most along.

Coordinates and colours only, at most MOST nodes; nothing on it says who a node is about. The components are
fitted on train. UMAP and t-SNE would show clusters where there are none; these two axes are plain
projections.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.probes.threads import blas_threads_for
from ehr_assets.reports.blocks import Figure, Section, absent
from ehr_assets.reports.figures import STYLE, WIDTH, svg_text
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.small_cells import FEWEST
from ehr_assets.reports.tables import Results

MOST = 2_000
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#5b6770", "#b59f00", "#8c4a1a")
REST = "#c9d0d6"


@dataclass(frozen=True)
class Map:
    """xy: (n, 2) of the shown held-out nodes; share: of train variance on each axis; node_id: (n,)."""

    node_id: Sequence[str]
    xy: NDArray[np.float64]
    share: NDArray[np.float64]


def embedding_map(inputs: Inputs, results: Results) -> Section:
    title = "Map of the embedding"
    recipe, (asset, *_) = inputs.candidate, inputs.candidate.assets("node_embeddings")
    if recipe.runs[0].embeddings is None:
        return Section(title, [absent("Embedding map", f"{asset} was not given.")])
    nodes = pl.read_parquet(results.cohort.nodes / "nodes.parquet")
    found = project(recipe.runs[0].embeddings, results, nodes)
    if found is None:
        why = f"{inputs.spec.label(recipe.name)} has too few finite, varying embeddings of this cohort."
        return Section(title, [absent("Embedding map", why)])
    named = dict(nodes.select("node_id", "indication").iter_rows())
    indication = [named.get(node) for node in found.node_id]
    second, what, more = _second(results, found.node_id)
    caption = (
        "Held-out nodes on the first two principal components of train nodes' embeddings"
        f" ({found.share[0]:.0%} and {found.share[1]:.0%} of their variance)."
        f" Left: indication (fewer than {FEWEST} nodes: other). {what}"
    )
    sources = [
        *inputs.sources(asset),
        *inputs.of_cohort(results.cohort.name, "decision_nodes", "subject_splits", *([more] if more else [])),
    ]
    label = f"S(t) of {inputs.spec.label(recipe.name)}: {results.cohort.title}"
    return Section(title, [Figure(_draw(found, indication, second), label, caption, sources)])


def project(embeddings: Path, results: Results, nodes: pl.DataFrame) -> Map | None:
    """Components fitted on all finite train embeddings; None with fewer than three, or where they do not
    vary.
    """
    splits = pl.read_parquet(results.cohort.splits / "subject_splits.parquet").select("subject_id", "split")
    split_of = dict(nodes.join(splits, on="subject_id").select("node_id", "split").iter_rows())
    ids, X = _read(embeddings, results.cohort.name)
    finite = np.isfinite(X).all(axis=1)
    split = np.array([split_of.get(node, "") for node in ids], dtype=object)
    train = X[finite & (split == "train")]
    shown = list(np.flatnonzero(finite & (split == "held_out")))
    # A fixed draw that knows nothing of time or subject: by a hash of the node's id.
    shown.sort(key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    shown = shown[:MOST]
    if len(train) < 3 or X.shape[1] < 2 or len(shown) < FEWEST or float(train.std(axis=0).max()) == 0.0:
        return None
    from sklearn.decomposition import PCA

    with blas_threads_for(train.size):
        pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(train.astype(np.float64))
        xy = pca.transform(X[shown].astype(np.float64))
    return Map([ids[i] for i in shown], xy, pca.explained_variance_ratio_)


def _read(folder: Path, cohort: str) -> tuple[list[str], NDArray[np.float32]]:
    table = pl.read_parquet(folder / "embeddings.parquet").filter(pl.col("cohort") == cohort).sort("node_id")
    if not table.height:
        return [], np.empty((0, 0), np.float32)
    vectors = np.asarray(table["embedding"].to_numpy(), np.float32)
    return table["node_id"].to_list(), vectors.reshape(table.height, -1)


def _second(results: Results, nodes: Sequence[str]) -> tuple[Mapping[str, Any] | None, str, str | None]:
    """What the right panel is coloured by, what the caption says of it, and the asset that it comes from.

    The simulator's velocity where it is known; else the outcome of the first binary task.
    """
    truth = results.cohort.oracle / "latent_at_nodes.parquet" if results.cohort.oracle else None
    if truth and truth.is_file() and "z_velocity" in pl.read_parquet_schema(truth):
        known = dict(pl.read_parquet(truth).select("node_id", "z_velocity").iter_rows())
        values = np.array([np.nan if known.get(n) is None else known[n] for n in nodes], dtype=float)
        said = "Right: velocity of the hidden disease state, which no record holds."
        return {"values": values, "name": "velocity of the disease"}, said, "oracle_metrics"
    task = next((r for r in results.rows if r.kind == "binary" and r.labels["positive"]), None)
    if task is None:
        return None, "", None
    from ehr_assets.nodes.frames import read_labels

    labels = dict(
        read_labels(results.cohort.labels, task.task).select("node_id", "boolean_value").iter_rows()
    )
    names = {True: "followed by it", False: "not followed by it", None: "not known"}
    groups = [names[labels.get(n)] for n in nodes]
    return {"groups": groups, "name": task.title}, f"Right: {task.title}.", "task_labels"


def _draw(found: Map, indication: Sequence[str | None], second: Mapping[str, Any] | None) -> str:
    with plt.rc_context(cast(Any, {**STYLE, "savefig.dpi": 170})):
        fig, axes = plt.subplots(
            1, 2 if second else 1, figsize=(WIDTH, 5.2), layout="constrained", squeeze=False, sharey=True
        )
        _by_group(axes[0, 0], found.xy, [i or "not known" for i in indication], "indication")
        if second and "groups" in second:
            _by_group(axes[0, 1], found.xy, second["groups"], second["name"])
        elif second:
            values = second["values"]
            low, high = np.nanquantile(values, [0.02, 0.98]) if np.isfinite(values).any() else (0, 1)
            drawn = axes[0, 1].scatter(
                *found.xy.T, c=values, s=9, cmap="viridis", vmin=low, vmax=high, lw=0, rasterized=True
            )
            bar = fig.colorbar(drawn, ax=axes[0, 1], shrink=0.8, pad=0.01)
            bar.outline.set_visible(False)  # type: ignore[operator]
            axes[0, 1].set_title(second["name"], fontsize=10, loc="left", weight="bold")
        for ax in axes[0]:
            ax.set_xlabel("first component")
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0, 0].set_ylabel("second component")
        return svg_text(fig)


def _by_group(ax: Any, xy: NDArray[np.float64], groups: Sequence[str], title: str) -> None:
    counts = {g: groups.count(g) for g in sorted(set(groups))}
    large = sorted((g for g, n in counts.items() if n >= FEWEST), key=lambda g: -counts[g])[: len(COLOURS)]
    names = [*sorted(large), *(["other"] if len(large) < len(counts) else [])]
    held = np.array([g if g in large else "other" for g in groups], dtype=object)
    for name in reversed(names):
        colour = REST if name == "other" else COLOURS[names.index(name)]
        mine = xy[held == name]
        ax.scatter(
            *mine.T, s=9, color=colour, lw=0, alpha=0.8, label=str(name).replace("_", " "), rasterized=True
        )
    ax.set_title(title, fontsize=10, loc="left", weight="bold")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], fontsize=8.5, markerscale=2, loc="best", handletextpad=0.2)
