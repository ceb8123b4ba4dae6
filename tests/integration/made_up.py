"""A made-up cohort and its whole chain in this process: tables to page, for cohorts that no simulator makes.

Everything runs but the training, whose place an untrained model of the recipe takes. That the training of a
chain is repeatable, and ends on its own, is shown by `test_chain.py`.
"""

import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, asset, materialize

from ehr_assets.build import build_project
from ehr_assets.embeddings.untrained import Untrained
from ehr_assets.reports.assets import report_key
from ehr_assets.settings import Settings
from ehr_assets.training.assets import checkpoint_key
from jobs.status import Graph
from resources.storage import Datasets, asset_name
from resources.tracking import MlflowTracking

NAME, RECIPE, ROOT = "made_up", "made_up_sft", "EHR_MADE_UP_ROOT"
START = datetime(2019, 1, 1)
FOLLOWED_DAYS = 700

RELAPSE = {"codes": ["^RELAPSE$"]}
TASKS = {
    "relapse_120d": {"horizon_days": 120, "outcome": RELAPSE},
    "again_120d": {"horizon_days": 120, "outcome": RELAPSE},
    "no_positives_90d": {"horizon_days": 90, "outcome": {"codes": ["^EARLY$"]}},
    "never_occurs_90d": {"horizon_days": 90, "outcome": {"codes": ["^NO_SUCH_CODE$"]}},
    "beyond_3650d": {
        "horizon_days": 3650,
        "outcome": RELAPSE,
        "competing": {"codes": ["^MEDS_DEATH$"], "counts_as": "censor"},
    },
    "survival_365d": {"kind": "time_to_event", "horizon_days": 365, "outcome": {"codes": ["^MEDS_DEATH$"]}},
    "no_event_365d": {"kind": "time_to_event", "horizon_days": 365, "outcome": {"codes": ["^EARLY$"]}},
    "marker_60d": {
        "kind": "regression",
        "horizon_days": 60,
        "target": {"codes": ["^MARKER$"], "take": "mean"},
    },
    "no_number_60d": {
        "kind": "regression",
        "horizon_days": 60,
        "target": {"codes": ["^NO_SUCH_CODE$"], "take": "last"},
    },
}
CANNOT = ("no_positives_90d", "never_occurs_90d", "beyond_3650d", "no_event_365d", "no_number_60d")
"""Nothing can be said about these: no outcome, no code, nobody followed for so long."""

SPECS = {
    "cohorts": {
        "title": "Made up",
        "source": {"kind": "tables", "root_env": ROOT},
        "subjects": {"table": "people", "column": "pid"},
        "splits": {"held_out": 0.3, "tuning": 0.2},
        "tables": [
            {
                "name": "people",
                "file": "people",
                "subject_id": "pid",
                "events": [
                    {"code": "GENDER//{sex}", "static": True, "section": "demographics"},
                    {"code": "MEDS_BIRTH", "time": {"year": "born"}, "section": "demographics"},
                    {"code": "MEDS_DEATH", "time": {"column": "died", "kind": "date"}, "section": "death"},
                ],
            },
            {
                "name": "records",
                "file": "records",
                "subject_id": "pid",
                "events": [
                    {"code": "{code}", "time": "time", "numeric_value": "number", "section": "observations"}
                ],
            },
        ],
        "decision_nodes": {
            "task_set": NAME,
            "indications": {"a": ["^KIND/A$"], "b": ["^KIND/B$"]},
            "subgroups": {"sex": {"kind": "codes", "values": {"f": ["^GENDER//F$"], "m": ["^GENDER//M$"]}}},
            "triggers": [{"name": "visit", "kind": "event", "codes": ["^VISIT$"]}],
        },
        "baselines": {"bootstrap": 20, "min_positives": 3},
    },
    "tasks": {
        "tasks": [{"name": n, "category": "Made up", "description": n, **task} for n, task in TASKS.items()]
    },
    "corpora": {
        "title": "Made up",
        "cohorts": [NAME],
        "format": "tagged",
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
    },
    "recipes": {
        "title": "Made up",
        "extends": "demo_size",
        "corpus": NAME,
        "backbone": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 64,
        },
        "jepa": None,
        "phases": [{"name": "sft", "objectives": {"sft": 1.0}, "steps": 4}],
        "embedding": {"max_tokens": 128, "control": True},
        "probe": {"bootstrap": 20, "min_positives": 3},
    },
    "reports": {"title": "Made up", "recipes": [RECIPE], "cohorts": [NAME]},
}
NAMES = {"cohorts": NAME, "tasks": None, "corpora": NAME, "recipes": RECIPE, "reports": NAME}


@dataclass(frozen=True)
class Cohort:
    """`subjects` of them, with or without the visits that are decision nodes."""

    subjects: int = 90
    visits: bool = True

    def write(self, root: Path) -> Path:
        """Writes the tables. One hidden number per subject drives markers, relapses and deaths."""
        rng = np.random.default_rng(5)
        people, records = ["pid,sex,born,died"], ["pid,time,code,number"]
        for subject in range(70_001, 70_001 + self.subjects):
            severity = rng.normal()
            days = {"EARLY": [0.0], f"KIND/{'AB'[subject % 2]}": [0.5]}
            days["VISIT"] = [40.0, 170.0, 300.0] if self.visits else []
            days["MARKER"] = sorted(rng.uniform(1, 400, 20).tolist())
            days["RELAPSE"] = [v + rng.uniform(5, 110) for v in (40, 170, 300) if rng.normal() < severity]
            died = rng.uniform(420, FOLLOWED_DAYS) if rng.normal() < severity - 0.3 else None
            days["CONTACT"] = [died or FOLLOWED_DAYS]
            people.append(f"{subject},{'FM'[subject % 2]},{1950 + subject % 30},{_time(died)[:10]}")
            for code, at in days.items():
                for day in at:
                    number = f"{5 + severity + rng.normal(0, 0.5):.3f}" if code == "MARKER" else ""
                    records.append(f"{subject},{_time(day)},{code},{number}")
        root.mkdir(parents=True)
        (root / "people.csv").write_text("\n".join(people) + "\n")
        (root / "records.csv").write_text("\n".join(records) + "\n")
        return root


def _time(day: float | None) -> str:
    return (START + timedelta(days=day)).isoformat(" ", "seconds") if day is not None else ""


class Chain:
    """All assets behind the cohort's page, and their checks, run by Dagster into a fresh home.

    Args:
        silent: the untrained model says the same of every record.
    """

    def __init__(self, folder: Path, cohort: Cohort, *, silent: bool = False, workers: int = 1) -> None:
        for kind, spec in SPECS.items():
            (folder / "specs" / kind).mkdir(parents=True)
            name = NAMES[kind]
            named = {"name": name, **spec} if name else spec
            file = folder / "specs" / kind / f"{name or NAME}.yaml"
            file.write_text(yaml.safe_dump(named, sort_keys=False))
        home = folder / "home"
        project = build_project(Settings(home=home, spec_dirs=(folder / "specs",)))
        graph = Graph(project.definitions)
        wanted = set(graph.upstream([report_key(NAME)]))
        trained = checkpoint_key(RECIPE)
        rest = wanted - {trained}
        definitions = [d for d in project.definitions.assets or () if set(d.keys) & rest]
        checks = [
            c for c in project.definitions.asset_checks or () if {s.asset_key for s in c.check_specs} <= rest
        ]
        gates = {k: v for k, v in project.gates.items() if k != asset_name(trained)}
        self.assets = [asset_name(key) for key in graph.upstream([report_key(NAME)])]
        self.store = Datasets(home=str(home), gates=gates)
        self.instance = DagsterInstance.ephemeral()
        tracking = MlflowTracking(uri=project.settings.mlflow_uri)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ROOT, str(cohort.write(folder / "raw")))
            patch.setenv("EHR_WORKERS", str(workers))
            self.result = materialize(
                [*definitions, *checks, stand_in(project.catalog.recipes[RECIPE], silent)],
                instance=self.instance,
                resources={"datasets": self.store, "tracking": tracking},
                raise_on_error=False,
            )

    def dataset(self, name: str):
        return self.store.latest(self.instance, AssetKey(name.split("/")))

    def path(self, name: str) -> Path:
        return self.dataset(f"{NAME}/{name}").path

    @property
    def page(self) -> str:
        return (self.path("report") / "report.html").read_text(encoding="utf-8")

    @property
    def errors(self) -> list[str]:
        """What the steps that failed said."""
        failures = [e.step_failure_data for e in self.result.all_events if e.is_step_failure]
        return [str(f.user_failure_data.description if f.user_failure_data else f.error) for f in failures]


def stand_in(recipe, silent: bool):
    """The checkpoint: the recipe's own model, untrained; with `silent`, every hidden state is zero."""
    key = checkpoint_key(recipe.name)

    @asset(key=key, deps=[AssetKey([recipe.corpus, "tokenizer"])], code_version="1")
    def checkpoint(context: AssetExecutionContext, datasets: Datasets):
        def build(step):
            folder = step.inputs[f"{recipe.corpus}/tokenizer"].path
            model = Untrained(recipe, folder).load()
            if silent:
                model.model.norm.weight.data.zero_()
            model.save_pretrained(step.out)
            for file in folder.glob("tokenizer*.json"):
                shutil.copy(file, step.out)
            rows = [{"step": s, "phase": "sft", "loss": 1.0 / s, "lr": 1e-3} for s in (1, 2, 3)]
            (step.out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            return {}

        return datasets.materialize(context, build)

    return checkpoint
