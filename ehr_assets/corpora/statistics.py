"""What `statistics.json` says of a token corpus: lengths, truncation, unknown tokens; and its picture.

Lengths are those of the text that a model reads at the end of a record; a format that keeps former versions
of its text (smb) stores more tokens than that.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.reader import STATISTICS
from ehr_assets.corpora.spec import CorpusSpec

if TYPE_CHECKING:
    from ehr_assets.corpora.shards import Tokens

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
CONTEXTS = (1_000, 2_000, 3_300, 8_000)
"""Context lengths beside the spec's own at which truncation is reported; 3,300 is the paper's (Table 7)."""
_BINS = 40


@dataclass
class Tally:
    """Counts of one split, or of a part of it."""

    lengths: list[np.ndarray] = field(default_factory=list)
    events: int = 0
    unknown: int = 0
    stored: int = 0

    def count(self, tokens: "Tokens", events: int, unknown_id: int | None) -> None:
        """Adds the records of a chunk of `events` rows."""
        last = np.ones(len(tokens.ids), bool) if tokens.until is None else np.isnat(tokens.until)
        ends = np.append(0, np.cumsum(last))[tokens.starts]
        self.lengths.append(np.diff(ends))
        self.events += events
        self.stored += len(tokens.ids)
        if unknown_id is not None:
            self.unknown += int((tokens.ids[last] == unknown_id).sum())

    def add(self, other: "Tally") -> None:
        self.lengths += other.lengths
        self.events += other.events
        self.unknown += other.unknown
        self.stored += other.stored

    def all_lengths(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *self.lengths])

    def summary(self, contexts: list[int]) -> dict[str, Any]:
        lengths = self.all_lengths()
        n, tokens = len(lengths), int(lengths.sum())
        at = np.quantile(lengths, QUANTILES, method="nearest") if n else []
        return {
            "subjects": n,
            "events": self.events,
            "tokens": tokens,
            "stored_tokens": self.stored,
            "tokens_per_event": tokens / self.events if self.events else None,
            "tokens_per_subject": {f"{q:g}": int(v) for q, v in zip(QUANTILES, at, strict=False)},
            "truncated": {str(context): _truncated(lengths, context) for context in contexts},
            "unknown_tokens": self.unknown,
        }


def _truncated(lengths: np.ndarray, context: int) -> dict[str, Any]:
    cut = lengths > context
    n, tokens = len(lengths), int(lengths.sum())
    return {
        "subjects": int(cut.sum()),
        "subjects_share": float(cut.mean()) if n else None,
        "tokens_share": float((lengths - context)[cut].sum() / tokens) if tokens else None,
    }


def write_statistics(
    spec: CorpusSpec, vocabulary: int, tallies: Mapping[str, Tally], out_dir: Path
) -> dict[str, Any]:
    """Writes `statistics.json`; gives back the counts over all splits for the manifest."""
    contexts = sorted({spec.context_tokens, *CONTEXTS})
    everyone = Tally()
    for tally in tallies.values():
        everyone.add(tally)
    total = everyone.summary(contexts)
    statistics = {
        "corpus": spec.name,
        "format": spec.format,
        "vocabulary": vocabulary,
        "context_tokens": spec.context_tokens,
        "splits": {split: tally.summary(contexts) for split, tally in tallies.items()},
        "all": total,
        "histogram": _histogram(everyone.all_lengths()),
    }
    text = json.dumps(statistics, indent=2, sort_keys=True) + "\n"
    (out_dir / STATISTICS).write_text(text, encoding="utf-8")
    names = ("subjects", "events", "tokens", "stored_tokens", "unknown_tokens", "tokens_per_event")
    return {
        **{name: total[name] for name in names if total[name] is not None},
        "truncated_subjects": total["truncated"][str(spec.context_tokens)]["subjects"],
    }


def _histogram(lengths: np.ndarray) -> dict[str, list]:
    """Subjects by length, in bins of equal width on a logarithmic scale."""
    if not len(lengths):
        return {"edges": [], "subjects": []}
    low, high = max(int(lengths.min()), 1), max(int(lengths.max()), 1)
    edges = np.geomspace(low, high + 1, _BINS + 1)
    counts, _ = np.histogram(np.maximum(lengths, 1), edges)
    return {"edges": [round(float(e), 3) for e in edges], "subjects": counts.tolist()}


def tables(corpus_dir: Path) -> dict[str, str]:
    """Statistics by split and truncation by context length, as Markdown."""
    found = json.loads((corpus_dir / STATISTICS).read_text(encoding="utf-8"))
    rows = {**{split: found["splits"][split] for split in SPLITS}, "all": found["all"]}
    quantiles = [f"{q:g}" for q in QUANTILES]
    lengths = ["split", "subjects", "events", "tokens", "per event", "unknown", *(f"q{q}" for q in quantiles)]
    contexts = list(found["all"]["truncated"])
    cut = ["split", *(f"{int(c):,} tokens" for c in contexts)]
    return {
        "tokens per subject": _table(
            lengths,
            [
                [
                    split,
                    *(f"{r[k]:,}" for k in ("subjects", "events", "tokens")),
                    "–" if r["tokens_per_event"] is None else f"{r['tokens_per_event']:.2f}",
                    f"{r['unknown_tokens']:,}",
                    *(f"{r['tokens_per_subject'].get(q, 0):,}" for q in quantiles),
                ]
                for split, r in rows.items()
            ],
        ),
        "share of subjects (and of tokens) cut": _table(
            cut, [[split, *(_shares(r["truncated"][c]) for c in contexts)] for split, r in rows.items()]
        ),
    }


def _shares(truncated: Mapping[str, Any]) -> str:
    if truncated["subjects_share"] is None:
        return "–"
    return f"{truncated['subjects_share']:.1%} ({truncated['tokens_share'] or 0:.1%})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def lengths_png(corpus_dir: Path) -> str:
    """Tokens per subject with the context lengths marked, as base64 PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = json.loads((corpus_dir / STATISTICS).read_text(encoding="utf-8"))
    edges, subjects = found["histogram"]["edges"], found["histogram"]["subjects"]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    if subjects:
        axes.stairs(subjects, edges, fill=True, color="#4c78a8")
        axes.set_xscale("log")
        axes.set_xlim(edges[0] * 0.9, max(edges[-1], *map(int, found["all"]["truncated"])) * 1.15)
    for context, cut in found["all"]["truncated"].items():
        own = int(context) == found["context_tokens"]
        if not own and abs(int(context) / found["context_tokens"] - 1) < 0.15:
            continue  # its label would lie on the other
        axes.axvline(
            int(context), color="#e45756" if own else "0.6", linewidth=1, linestyle="-" if own else ":"
        )
        axes.text(
            int(context),
            1.01,
            f"{int(context):,}\n{cut['subjects_share'] or 0:.0%}",
            transform=axes.get_xaxis_transform(),
            ha="right" if own else "left",
            va="bottom",
            fontsize=7,
            color="#e45756" if own else "0.4",
        )
    axes.set(
        xlabel="tokens per subject (marked: context lengths, share of subjects longer)", ylabel="subjects"
    )
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return base64.b64encode(out.getvalue()).decode()
