"""What auditors ask: which models used this subject, which models used this code."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ehr_assets.errors import SpecError
from ehr_assets.lineage.closure import Node, all_manifests, closure_of
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import Manifest
from ehr_assets.lineage.names import asset_and_partition
from ehr_assets.lineage.subjects import EMBEDDED, FITTED, SCORED, TRAINED, TUNED, SubjectLists

CHECKPOINT = "checkpoint"
LETTERS = 7
"""At least so many of a version: fewer stand for too much."""


@dataclass(frozen=True)
class UsedSubject:
    """What one model did with one subject.

    Attributes:
        model: its asset and the first letters of its data version.
        roles: of `lineage/subjects.py`; empty where it did nothing with it.
        by_way_of: models it goes on from that were trained on the subject.
        unknown: datasets without a list, or with one of a salt that is lost.
        gone: its dataset was collected; the list is all that is left.
    """

    model: str
    roles: list[str]
    by_way_of: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    gone: bool = False

    @property
    def trained(self) -> bool:
        return TRAINED in self.roles or bool(self.by_way_of)


def models_with_subject(store: DatasetStore, cohort: str, subject: int) -> list[UsedSubject]:
    """Every model that there is, or of which a list is left, and what it did with a subject."""
    lists, known = SubjectLists(store.home), list(all_manifests(store))
    answers = []
    for path, manifest in _models(known):
        roles, way, unknown = set(), [], []
        for node in closure_of(store, path, known).nodes:
            kind = asset_and_partition(node.asset)[0].rpartition("/")[2]
            asked = _ASKED.get(kind, ())
            found = lists.roles_of(node.dataset, cohort, subject) if asked else []
            if found is None:
                unknown.append(_name(node.asset, node.data_version))
            elif kind == CHECKPOINT and node.side != "itself":
                goes_on = node.side == "made_from" and TRAINED in found
                way += [_name(node.asset, node.data_version)] if goes_on else []
            else:
                roles |= {role for role in found if role in asked}
        name = _name(manifest.asset, manifest.data_version)
        answers.append(UsedSubject(name, sorted(roles), way, unknown))
    there = {path for path, _ in known}
    for dataset in lists.datasets():
        _, *asset, version = dataset.split("/")
        if dataset not in there and len(asset) > 1 and asset[1] == CHECKPOINT:
            roles, name = lists.roles_of(dataset, cohort, subject), _name("/".join(asset), version[-12:])
            answers.append(UsedSubject(name, roles or [], unknown=[name] * (roles is None), gone=True))
    return answers


_ASKED = {
    CHECKPOINT: (TRAINED, TUNED),
    "node_embeddings": (EMBEDDED,),
    "probe_metrics": (FITTED, SCORED),
}
"""Kind of asset → the roles that are told of a model."""


@dataclass(frozen=True)
class UsedCode:
    """The datasets of one model that a version made: those it was made from, itself too; its scores."""

    model: str
    made_from: list[str]
    scores: list[str]


def models_with_code(store: DatasetStore, version: str) -> list[UsedCode]:
    """Every model with a dataset in its closure that was made by this code.

    Args:
        version: of the code, its first part (sources) or second (settings), or of git; or first letters of
            one.

    Raises:
        SpecError: too few letters.
    """
    if len(version) < LETTERS:
        raise SpecError(
            f"A version has at least {LETTERS} letters here.", where=version, do="Give more of it."
        )
    known = list(all_manifests(store))
    answers = []
    for path, manifest in _models(known):
        hits = [n for n in closure_of(store, path, known).nodes if _made_by(n, version)]
        sides = [
            [_name(n.asset, n.data_version) for n in hits if (n.side == "scores") is s] for s in (False, True)
        ]
        if hits:
            answers.append(UsedCode(_name(manifest.asset, manifest.data_version), *sides))
    return answers


def _made_by(node: Node, version: str) -> bool:
    m = node.manifest
    if m is None:
        return False
    sources, _, settings = m.code_version.partition(".")
    names = (m.code_version, sources, settings, m.git_revision or "", m.lock_hash)
    return any(name.startswith(version) for name in names)


def _models(known: list[tuple[str, Manifest]]) -> Iterator[tuple[str, Manifest]]:
    for path, manifest in known:
        if asset_and_partition(manifest.asset)[0].endswith(f"/{CHECKPOINT}"):
            yield path, manifest


def _name(asset: str, version: str) -> str:
    return f"{asset} @ {version[:12]}"
