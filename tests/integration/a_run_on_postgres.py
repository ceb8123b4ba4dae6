"""One asset made in a run whose instance lies in Postgres, in a process of its own.

Run by `test_postgres.py`: `python a_run_on_postgres.py WHAT`, with EHR_HOME and EHR_POSTGRES_URL set. The
asset's body says `working` and goes on when it reads a line. The last line is the data version.
"""

import sys

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, asset, materialize

from ehr_assets.settings import Settings
from jobs.abandoned import close_dead_runs, process_tags
from jobs.instance import open_instance
from resources.storage import Datasets, Stats, Step

KEY = AssetKey(["c", "thing"])


def make(content: str) -> None:
    settings = Settings.from_env()

    def body(step: Step) -> Stats:
        print("working", flush=True)
        sys.stdin.readline()
        (step.out / "a.txt").write_text(content)
        return {"n": 1}

    @asset(key=KEY, code_version="1")
    def thing(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        return datasets.materialize(context, body)

    datasets = Datasets(home=str(settings.home), gates={})
    with open_instance(settings) as instance:
        close_dead_runs(instance, settings)
        result = materialize(
            [thing], instance=instance, resources={"datasets": datasets}, tags=process_tags()
        )
        assert result.success
        print(datasets.latest(instance, KEY).data_version, flush=True)


if __name__ == "__main__":
    make(sys.argv[1])
