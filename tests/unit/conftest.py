"""Fixtures of several test modules."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from simulators_support import SUBJECTS, Simulated

from ehr_assets.cohorts.synthetic.registry import SIMULATORS

# A limit per example is broken by a busy machine, and says nothing about what is tested.
settings.register_profile("no_clock", deadline=None)
settings.load_profile("no_clock")


@pytest.fixture(autouse=True)
def environment_is_left_as_found():
    """Preparing a home names it in the environment: a later test's child processes would all use that one."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def raw(tmp_path: Path):
    """Writes raw files by name; people 1 and 2 are there."""
    root = tmp_path / "raw"

    def write(people: str = "id\n1\n2\n", **files: str | bytes) -> Path:
        for name, content in {"people.csv": people, **files}.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Simulated]:
    """A small cohort of every simulator, of the same persons."""
    root = tmp_path_factory.mktemp("worlds")
    return {name: Simulated.run(name, root / name, SUBJECTS[name]) for name in SIMULATORS}


@pytest.fixture(scope="module")
def on_the_cpu():
    """For processes that are started or forked: one thread each, and no look for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def only_rank():
    """This process as the only rank, and nothing of it left for other tests (or their child processes)."""
    import torch

    from ehr_assets.training.start import deepspeed, join_ranks

    threads, before = torch.get_num_threads(), dict(os.environ)
    torch.set_num_threads(1)
    yield join_ranks()
    deepspeed.comm.destroy_process_group()  # torch's own call leaves DeepSpeed its old groups
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory):
    """A made-up cohort with tasks of every kind, to compare methods on."""
    from compare_support import every_kind

    return every_kind(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def predicted(all_kinds) -> dict[str, Path]:
    """Method -> folder of its predictions of that cohort's tasks."""
    from compare_support import predict_by_many

    return predict_by_many(all_kinds)
