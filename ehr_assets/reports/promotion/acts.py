"""Which version of a model is in use, told from what was done: acts of promotion and rollback, in order.

An act is recorded before the registry's alias `champion` is moved, and says what the alias was on until then.
So where the two disagree, the alias is what is in use, and doing the act again repairs it. Records are only
ever added; rolling back takes none away.

A record is a dataset: `record.json` with the act, and of a promotion `verdict.json`, the verdict it rests on.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ehr_assets.errors import DatasetError, PromotionError

RECORD = "record.json"
FORMAT = 1
NONE = "none"
"""Given as the version to go back to: no version is to be in use."""


@dataclass(frozen=True)
class Act:
    """One promotion or rollback.

    Args:
        model: its name in the registry, which is that of its recipe.
        version: which is in use from then on; None: none is.
        previous: which was until then.
        report: whose verdict a promotion rests on.
        checkpoint: data version of the checkpoint that the version is.
        dataset: where the record lies, from the storage root; "" while it is written.
        data_version: of that dataset.
        run_id: of the Dagster run that recorded it; "" while it is written.
    """

    action: Literal["promoted", "rolled_back"]
    model: str
    version: str | None
    previous: str | None
    asked_by: str
    reason: str
    report: str | None = None
    checkpoint: str | None = None
    dataset: str = ""
    data_version: str = ""
    run_id: str = ""

    def facts(self) -> dict[str, str]:
        """For the manifest, Dagster's pages and the audit log: what there is of it."""
        found = {k: v for k, v in asdict(self).items() if k not in ("dataset", "data_version", "run_id")}
        return {k: v for k, v in found.items() if v is not None}


def versions_in_use(acts: Iterable[Act], model: str, champion: str | None) -> list[str]:
    """The version of a model that is in use, last, and before it those that a rollback would come to.

    A version that was rolled back is not among them, unless it was promoted again.

    Args:
        acts: of whatever models, oldest first.
        champion: what the registry's alias is on. Later acts never took effect.
    """
    stack: list[str] = []

    def on_top(version: str | None) -> None:
        if version is None:
            stack.clear()
        elif version in stack:
            del stack[_last(stack, version) + 1 :]
        else:
            stack.append(version)  # its own record is lost

    for act in acts:
        if act.model != model:
            continue
        on_top(act.previous)
        if act.action == "rolled_back":
            on_top(act.version)
        elif act.version is not None and stack[-1:] != [act.version]:
            stack.append(act.version)
    on_top(champion)
    return stack


def accepted(acts: Sequence[Act], report: str, champion: Callable[[str], str | None]) -> Act | None:
    """The promotion whose verdict a report's next candidate is held against; None if there is none.

    It is the newest of this report whose version is in use or would be after rollbacks. Of a version that
    another report promoted this one has no scores, so it goes on from the last that it judged itself.

    Args:
        acts: oldest first.
        champion: model → the version that the registry's alias is on. Asked only where there is a promotion.
    """
    promotions = (a for a in reversed(acts) if a.report == report and a.action == "promoted")
    return next(
        (a for a in promotions if a.version in versions_in_use(acts, a.model, champion(a.model))), None
    )


def version_before(acts: Sequence[Act], model: str, champion: str | None, to: str = "") -> str | None:
    """Which version a rollback comes to: the one in use before, or `to` if that was promoted once.

    Returns:
        None when no version is to be in use (`to` is "none").

    Raises:
        PromotionError: there is none before, or `to` was never in use.
    """
    where, known = f"model {model}", [a.version for a in acts if a.model == model and a.version]
    if to == NONE:
        return None
    if to:
        if to not in known:
            said = ", ".join(dict.fromkeys(known)) or "none"
            raise PromotionError(
                f"Version {to} of '{model}' was never in use.", where=where, do=f"Versions that were: {said}."
            )
        return to
    stack = versions_in_use(acts, model, champion)
    before = stack[:-1] if champion is not None else stack
    if not before:
        raise PromotionError(
            f"There is no version of '{model}' to go back to: {champion or 'none'} is in use, none before.",
            where=where,
            do=f"To take it out of use all the same: `ehr rollback {model} --to {NONE} --why REASON`.",
        )
    return before[-1]


def write_record(act: Act, out_dir: Path, verdict: Path | None = None) -> None:
    """Writes the record of an act, with the verdict's file beside it where it rests on one."""
    from ehr_assets.reports.verdict import VERDICT  # polars is not needed to load definitions

    content = {"format": FORMAT, **act.facts(), "version": act.version, "previous": act.previous}
    (out_dir / RECORD).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if verdict is not None:
        shutil.copyfile(verdict / VERDICT, out_dir / VERDICT)


def read_record(folder: Path) -> Mapping[str, Any]:
    """A written record. Raises DatasetError when it is none of this format."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DatasetError("The record cannot be read.", where=str(path), do="Restore the file.") from e
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DatasetError("The record is of another format.", where=str(path), do="Restore the file.")
    return record


def _last(stack: Sequence[str], version: str) -> int:
    return len(stack) - 1 - stack[::-1].index(version)
