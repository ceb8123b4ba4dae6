"""The page of a dossier: one self-contained HTML file, in the look of the reports.

No scripts, nothing fetched from anywhere, no subject id.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehr_assets.lineage.dossier import problems
from ehr_assets.lineage.picture import Box, closure_svg
from ehr_assets.reports.small_cells import masked
from ehr_assets.reports.templates import HERE as REPORTS
from ehr_assets.reports.templates import environment

HERE = Path(__file__).parent


def dossier_page(document: Mapping[str, Any]) -> str:
    """The HTML of a document (`dossier.py`)."""
    made = environment(HERE)
    made.filters["masked"] = masked
    made.filters["size"] = _size
    made.filters["day"] = lambda text: (text or "")[:19].replace("T", " ")
    made.filters["pretty"] = lambda value: json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    checks = [c for d in document["datasets"] for c in d["checks"]]
    return made.get_template("dossier.html").render(
        d=document,
        css=(REPORTS / "report.css").read_text(encoding="utf-8"),
        svg=closure_svg([_box(dataset, document) for dataset in document["datasets"]]),
        problems=problems(document),
        n_checks=len(checks),
        n_passed=sum(bool(c["passed"]) for c in checks),
        rows_read=sum(r["read"] or 0 for r in document["rows"]),
        rows_quarantined=sum(r["quarantined"] or 0 for r in document["rows"]),
    )


def _box(dataset: Mapping[str, Any], document: Mapping[str, Any]) -> Box:
    checks = dataset["checks"]
    failed = [c for c in checks if not c["passed"] and c["severity"] == "error"]
    cohort, _, part = dataset["asset"].partition("/")
    files = [f for f in document["raw_files"] if f["cohort"] == cohort] if part == "raw_tables" else []
    more = (
        f"{len(files)} raw files"
        if files
        else f"{sum(bool(c['passed']) for c in checks)}/{len(checks)} checks"
    )
    return Box(
        id=_id(dataset),
        title=dataset["asset"],
        note=f"{dataset['data_version'][:12]} · {more if dataset['present'] else 'gone'}",
        look=dataset["side"],
        inputs=[_id(i) for i in dataset["inputs"]],
        alarm=bool(failed or dataset["overrides"] or not dataset["present"]),
    )


def _id(dataset: Mapping[str, Any]) -> str:
    return f"{dataset['asset']} {dataset['data_version']}"


def _size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
