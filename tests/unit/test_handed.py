"""What a process hands to its workers in a file is taken only if it is that file."""

import pickle
from pathlib import Path

import pytest

from ehr_assets.errors import DatasetError
from ehr_assets.fanout import Crew
from ehr_assets.handed import Handed, hand


class Trace:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def take(handed: Handed):
    return handed.take()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_was_altered_is_not_taken(tmp_path, workers):
    trace = Trace(tmp_path / "it was run")
    handed = hand({"a": 1}, tmp_path / "job.pickle")
    with Crew(workers) as crew:
        assert list(crew.map(take, [handed, handed])) == [{"a": 1}] * 2
        handed.path.write_bytes(pickle.dumps(trace))
        with pytest.raises(DatasetError, match="altered"):
            list(crew.map(take, [handed]))
    assert not trace.path.exists()
    pickle.loads(handed.path.read_bytes())
    assert trace.path.exists(), "it would have been run"
