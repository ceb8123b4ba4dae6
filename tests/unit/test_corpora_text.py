"""`ehr corpus text`: what was known and nothing else, on stdout and nothing else there."""

from datetime import datetime, timedelta

import pytest
from corpora_support import CODES, SPEC, T0, frame, known_at, random_rows, write_meds
from typer.testing import CliRunner

from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.text import known_events, text_of, window_text
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.errors import DatasetError, SpecError
from jobs.cli import corpus
from jobs.cli.main import app

ROWS = random_rows(range(1, 4), 1)
ASKED = ["corpus", "text", "--cohort", "synthetic_oncology", "--subject", "7", "--until", "2020-03-01"]


@pytest.fixture(scope="module")
def meds(tmp_path_factory):
    return write_meds(tmp_path_factory.mktemp("text"), {"train": ROWS})


@pytest.mark.parametrize("layout", ["tagged", "smb"])
def test_the_text_is_that_of_what_was_known(meds, layout):
    spec = SPEC.model_copy(update={"format": layout})
    for days in (0, 3, 100, 4000):
        t = T0 + timedelta(days=days)
        events = known_events(meds[0], 2, t)
        past = known_at(frame([row for row in ROWS if row[0] == 2]), t)
        assert text_of(events, meds[0], layout) == serialize(past, CODES, spec).texts()[0]


def test_before_anything_was_known(tmp_path):
    meds, _ = write_meds(tmp_path, {"train": [(1, T0, "LAB//hb", 1.0, None, T0, "measurements")]})
    events = known_events(meds, 1, datetime(1900, 1, 1))
    assert text_of(events, meds, "tagged") == "<demographics></demographics>"
    assert text_of(events, meds, "smb") == ""


@pytest.mark.parametrize("layout", ["tagged", "smb"])
def test_a_context_cuts_it_to_the_newest(meds, tmp_path, layout):
    spec = SPEC.model_copy(update={"format": layout})
    train_tokenizer(spec, {"here": meds[0]}, {"here": meds[1]}, tmp_path)
    events = known_events(meds[0], 2, datetime(2100, 1, 1))
    whole = text_of(events, meds[0], layout)
    assert window_text(events, meds[0], spec, tmp_path, 100_000) == whole
    part = window_text(events, meds[0], spec, tmp_path, 40)
    assert len(part) < len(whole)
    assert part[-15:] == whole[-15:]
    nothing = known_events(meds[0], 2, datetime(1900, 1, 1)).clear()
    assert window_text(nothing, meds[0], spec, tmp_path, 40) == text_of(nothing, meds[0], layout)


@pytest.mark.parametrize("subject", [999, 2**63, -(2**70)])
def test_an_unknown_subject_is_refused_without_its_id(meds, subject):
    with pytest.raises(DatasetError, match="no subject of that id") as error:
        known_events(meds[0], subject, T0)
    assert str(subject) not in str(error.value)


@pytest.mark.parametrize("text", ["soon", "2020-13-01", "2020-03-01T08:00:00Z", ""])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(SpecError, match="--until"):
        corpus.moment(text)


def test_stdout_holds_the_text_and_nothing_else(monkeypatch):
    asked = []
    answer = ("As in the corpus c.", "\n[2020-03-01]\nA: 1.00")
    monkeypatch.setattr(corpus, "known_text", lambda *args: asked.append(args) or answer)
    done = CliRunner().invoke(app, [*ASKED, "--format", "smb", "--tokens", "9"])
    assert done.stdout == answer[1]
    assert done.stderr == answer[0] + "\n"
    assert asked == [("synthetic_oncology", 7, "2020-03-01", "smb", None, 9)]


@pytest.mark.parametrize(
    ("layout", "name", "meant"),
    [
        ("smb", None, "only"),
        (None, "short", "short"),
        ("tagged", "long", "long"),
        (None, "only", "only"),
        (None, None, "Several corpora .*: long, short"),
        ("smb", "long", "no corpus on cohort 'here' of format 'smb' named 'long'"),
        (None, "elsewhere", "no corpus on cohort 'here' named 'elsewhere'"),
    ],
)
def test_a_corpus_is_named_or_the_only_one(layout, name, meant):
    plain = SPEC.model_dump()
    corpora = {
        c: CorpusSpec.model_validate({**plain, "name": c, "format": f, "cohorts": [where]})
        for c, f, where in (
            ("long", "tagged", "here"),
            ("short", "tagged", "here"),
            ("only", "smb", "here"),
            ("elsewhere", "tagged", "there"),
        )
    }
    if " " in meant:
        with pytest.raises(SpecError, match=meant):
            corpus.corpus_for(corpora, "here", layout, name)
    else:
        found = corpus.corpus_for(corpora, "here", layout, name)
        assert found is not None
        assert found.name == meant
    assert corpus.corpus_for(corpora, "there", "smb", None) is None


def test_the_cohort_and_its_events_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("EHR_HOME", str(tmp_path))
    with pytest.raises(SpecError, match="synthetic_oncology"):
        corpus.known_text("synthetic_oncologi", 7, "2020-03-01", "smb", None, None)
    with pytest.raises(SpecError, match="--tokens"):
        corpus.known_text("mimic_iv", 7, "2020-03-01", "smb", None, 64)
    with pytest.raises(DatasetError, match="synthetic_oncology/meds_events"):
        corpus.known_text("synthetic_oncology", 7, "2020-03-01", "smb", None, None)
