"""A made-up storage root for tests of lineage: raw tables to scores, without anything being run."""

import json

import polars as pl

from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import InputEntry, now

CODE = {"demo/checkpoint": "abcdef123456.0123456789ab"}


class MadeUp:
    """Datasets by name; each made from those named, with a file `content.txt` and what its kind has."""

    def __init__(self, home, store=None):
        self.store = store or DatasetStore(home)
        self.made = {}

    def make(self, asset, *inputs, content="content", files=None, **more):
        with self.store.staging() as staged:
            (staged / "content.txt").write_text(f"{asset} {content}")
            for name, write in (files or {}).items():
                write(staged / name)
            entries = [
                InputEntry(
                    asset=self.made[i].manifest.asset,
                    data_version=self.made[i].data_version,
                    dataset=self.store.relative(self.made[i]),
                )
                for i in inputs
            ]
            code = more.pop("code_version", CODE.get(asset, "fedcba654321.ba9876543210"))
            self.made[asset] = self.store.commit(
                staged,
                asset=asset,
                code_version=code,
                started_at=now(),
                inputs=entries,
                run_id="run-1",
                **more,
            )
        return self.made[asset]

    def path(self, asset):
        return self.store.relative(self.made[asset])

    def chain(self):
        """raw → meds → corpus → checkpoint → embeddings → scores, a verdict, another checkpoint."""
        tables = {"person": {"read": 12, "accepted": 11, "quarantined": 1, "events": 30}}
        meds = {"read": 12, "accepted": 11, "quarantined": 1, "subjects": 11, "events": 30}
        self.make("c/raw_tables", files={"person.csv": lambda p: p.write_text("id\n1\n")})
        self.make("c/subject_splits", "c/raw_tables")
        self.make("c/meds_events", "c/raw_tables", "c/subject_splits", stats={**meds, "tables": tables})
        self.make("x/token_corpus", "c/meds_events")
        fitted = {"split": "train", "n_subjects": 7, "subjects_sha256": "5" * 64}
        write = lambda p: p.write_text(json.dumps(fitted))  # noqa: E731
        config = {"name": "demo", "lr": 0.1}
        self.make("demo/checkpoint", "x/token_corpus", config=config, seed=3, files={"fitted_on.json": write})
        self.make("other/checkpoint", "x/token_corpus", content="other")
        self.make("c/decision_nodes", "c/meds_events")
        self.make("demo/node_embeddings", "demo/checkpoint", "c/decision_nodes")
        scores = {"metrics.parquet": metrics().write_parquet}
        self.make("demo/probe_metrics", "demo/node_embeddings", files=scores)
        judged = {"recipe": "demo", "may_be_promoted": False, "reasons": ["Not better."]}
        verdict = {"verdict.json": lambda p: p.write_text(json.dumps(judged))}
        self.make("c/verdict", "demo/probe_metrics", "other/checkpoint", files=verdict)
        return self


def metrics():
    whole = {"recipe": "demo", "cohort": "c", "task": "death_1y", "category": "Survival", "horizon_days": 365}
    row = {**whole, "indication": None, "subgroup": None, "probe": "logistic", "metric": "auroc", "seed": 1}
    numbers = {"value": 0.71, "ci_low": 0.6, "ci_high": 0.8, "n": 40, "n_positive": 5, "n_subjects": 9}
    rows = [
        {**row, **numbers, "split": "held_out"},
        {**row, **numbers, "split": "held_out", "subgroup": "men"},
    ]
    return pl.DataFrame(rows, schema_overrides={"indication": pl.String, "subgroup": pl.String})
