"""Token corpora on disk: tokens and events aligned, the past a prefix, windows, statistics."""

import base64
import shutil
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora_support import CODES, SPEC, T0, frame, known_at, random_rows, read_json, write_meds
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_assets.corpora import statistics, tokenizer
from ehr_assets.corpora.audit import records_out_of_order, texts_that_saw_the_future
from ehr_assets.corpora.reader import TokenCorpus, known_demographics, text_until, window
from ehr_assets.corpora.serialize import in_availability_order, serialize
from ehr_assets.corpora.shards import SCHEMA, write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.errors import DatasetError
from ehr_assets.fanout import Machine
from ehr_assets.meds import reading

ROWS = {
    "train": random_rows(range(1, 9), 1),
    "tuning": random_rows(range(11, 13), 2),
    "held_out": random_rows(range(21, 24), 3),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(meds_dir, tokenizer_dir, corpus_dir)"""
    root = tmp_path_factory.mktemp("corpus")
    meds, splits = write_meds(root, ROWS)
    for name in ("tokenizer", "corpus"):
        (root / name).mkdir()
    train_tokenizer(SPEC, {"here": meds}, {"here": splits}, root / "tokenizer")
    write_corpus(SPEC, {"here": meds}, root / "tokenizer", root / "corpus")
    return meds, root / "tokenizer", root / "corpus"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_subject_has_one_row_in_its_split(made):
    corpus = TokenCorpus(made[2])
    found = {split: [r.subject_id for r in corpus.subjects(split)] for split in reading.SPLITS}
    assert found == {"train": list(range(1, 9)), "tuning": [11, 12], "held_out": [21, 22, 23]}
    assert len(corpus) == 13
    assert corpus.split_of("here", 22) == "held_out"
    assert corpus.find("here", 999) is None
    assert corpus.find("elsewhere", 22) is None
    with pytest.raises(IndexError):
        corpus.record("tuning", 2)


def test_the_file_has_the_contracts_schema(made):
    with pa.memory_map(str(made[2] / "train" / "00000.arrow")) as source:
        assert pa.ipc.open_file(source).schema.equals(SCHEMA)


def test_decoded_tokens_are_the_records_text(made):
    texts = serialize(frame(ROWS["train"]), CODES, SPEC).texts()
    read = [text_until(made[1], r, datetime(2100, 1, 1)) for r in TokenCorpus(made[2]).subjects("train")]
    assert read == texts


def test_tokens_know_their_events(made):
    from ehr_assets.corpora.piece_tokenizer import PieceTokenizer

    pieces_of = PieceTokenizer(made[1])
    names = {"DX//C34": "\nMalignant neoplasm of lung", "LAB//hb": "\nHemoglobin", "NOTE": "\nNOTE"}
    ordered = in_availability_order(frame(ROWS["tuning"]))
    for record in TokenCorpus(made[2]).subjects("tuning"):
        rows = ordered.filter(pl.col("subject_id") == record.subject_id)
        for i, row in enumerate(rows.iter_rows(named=True)):
            mine = record.event_index == i
            if row["code"] in names:
                assert pieces_of.decode(record.token_ids[mine]).startswith(names[row["code"]])
                assert set(record.available[mine].tolist()) == {row["available_time"]}
                assert set(record.token_time[mine].tolist()) == {row["time"]}
        assert record.event_index.max() == rows.height - 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 50), days=st.floats(-1, 400))
def test_the_past_is_an_exact_prefix(made, tmp_path_factory, seed, days):
    t = T0 + timedelta(days=days)
    events = random_rows(range(1, 3), seed, events=10)
    root = tmp_path_factory.mktemp("prefix")
    records = []
    for name, part in (("whole", frame(events)), ("cut", known_at(frame(events), t))):
        meds, _ = write_meds(root / name, {"train": part.rows()})
        (root / name / "out").mkdir()
        write_corpus(SPEC, {"here": meds}, made[1], root / name / "out")
        records.append(list(TokenCorpus(root / name / "out").subjects("train")))
    for whole, cut in zip(*records, strict=True):
        end = whole.known(t)
        head = known_demographics(whole, t)
        seen = np.concatenate([head, np.arange(whole.n_demographics, end)])
        for name in ("token_ids", "event_index", "token_time", "available"):
            a, b = getattr(whole, name)[seen], getattr(cut, name)
            assert np.array_equal(a.astype(np.int64), b.astype(np.int64))
        if end > whole.n_demographics:
            assert np.array_equal(seen, np.arange(end))
        for size in (8, 40, 1000):
            assert np.array_equal(
                whole.token_ids[window(whole, t, size)],
                cut.token_ids[window(cut, datetime(2100, 1, 1), size)],
            )


def test_a_window_keeps_demographics_and_the_newest_whole_events(made):
    record = max(TokenCorpus(made[2]).subjects("train"), key=len)
    t = record.available[-1]
    for size in range(record.n_demographics + 60, len(record) + 3, 7):
        shown = window(record, t, size)
        head, body = shown[: record.n_demographics], shown[record.n_demographics :]
        assert len(shown) <= size
        assert head.tolist() == list(range(record.n_demographics))
        assert body.tolist() == list(range(body[0], len(record)))
        if body[0] > record.n_demographics:
            before, first = record.event_index[body[0] - 1], record.event_index[body[0]]
            new_time = record.available[body[0] - 1] != record.available[body[0]]
            assert new_time or (before >= 0 and first >= 0 and before != first)
    assert window(record, t, len(record)).tolist() == list(range(len(record)))


def test_a_long_demographics_block_leaves_room_for_events(made):
    record = TokenCorpus(made[2]).record("train", 0)
    shown = window(record, record.available[-1], 4)
    assert shown.tolist()[:2] == [0, 1]
    assert shown.tolist()[2:] == [len(record) - 2, len(record) - 1]


def test_before_the_first_event_there_is_no_age(made):
    record = TokenCorpus(made[2]).record("train", 0)
    first = record.available[record.n_demographics]
    before = text_until(made[1], record, first - np.timedelta64(1, "us"))
    assert before == "<demographics>\nGender: female</demographics>"
    assert "Age: " in text_until(made[1], record, first)


def test_small_chunks_give_the_same_corpus(made, tmp_path, monkeypatch):
    """A chunk ends by its bytes, so that long texts come in few rows, and only between two subjects."""
    file = made[0] / "data" / "train" / "0.parquet"
    (whole,) = reading.iter_file(file)
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 1_000)
    chunks = list(reading.iter_file(file))
    assert len(chunks) >= 4
    assert pl.concat(chunks).equals(whole)
    assert sum(chunk["subject_id"].n_unique() for chunk in chunks) == whole["subject_id"].n_unique()
    write_corpus(SPEC, {"here": made[0]}, made[1], tmp_path)
    for split in reading.SPLITS:
        ours, theirs = list(TokenCorpus(tmp_path).subjects(split)), list(TokenCorpus(made[2]).subjects(split))
        assert [r.subject_id for r in ours] == [r.subject_id for r in theirs]
        assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(ours, theirs, strict=True))


def test_equal_inputs_give_equal_bytes(made, tmp_path):
    write_corpus(SPEC, {"here": made[0]}, made[1], tmp_path)
    assert contents(tmp_path) == contents(made[2])


@pytest.mark.parametrize("layout", ["tagged", "smb"])
def test_a_text_that_saw_the_future_is_found(made, tmp_path, layout):
    """Planted: a corpus that takes what happened for known, and asks nothing about when it was."""
    spec = SPEC.model_copy(update={"format": layout})
    early = {s: [(*row[:5], row[1], row[6]) for row in rows] for s, rows in ROWS.items()}
    wrong = {}
    for name, rows in (("honest", ROWS), ("early", early)):
        meds, _ = write_meds(tmp_path / name, rows)
        (out := tmp_path / name / "corpus").mkdir()
        write_corpus(spec, {"here": meds}, made[1], out)
        compared, wrong[name] = texts_that_saw_the_future(spec, out, made[1], {"here": made[0]})
        assert compared == 13 * 4
        assert records_out_of_order(out) == (13, 0)
    assert wrong["honest"] == 0
    assert wrong["early"] > 5


def test_statistics_count_what_is_there(made):
    corpus = TokenCorpus(made[2])
    lengths = np.concatenate([corpus.lengths(s) for s in reading.SPLITS])
    found = read_json(made[2] / "statistics.json")["all"]
    assert found["subjects"] == 13
    assert found["events"] == sum(len(rows) for rows in ROWS.values())
    assert found["tokens"] == lengths.sum() == sum(len(r) for s in reading.SPLITS for r in corpus.subjects(s))
    assert found["tokens_per_subject"]["1"] == lengths.max()
    assert found["truncated"]["60"]["subjects_share"] == (lengths > 60).mean()
    assert found["tokens_per_event"] == lengths.sum() / found["events"]
    assert found["unknown_tokens"] == 0


def test_an_empty_cohort_gives_an_empty_corpus(made, tmp_path):
    meds, _ = write_meds(tmp_path, {})
    (tmp_path / "out").mkdir()
    stats = write_corpus(SPEC, {"here": meds}, made[1], tmp_path / "out")
    assert stats["subjects"] == 0
    assert len(TokenCorpus(tmp_path / "out")) == 0


def test_a_broken_corpus_is_named(made, tmp_path):
    with pytest.raises(DatasetError, match=r"train"):
        TokenCorpus(tmp_path)
    shutil.copytree(made[2], tmp_path / "broken")
    file = tmp_path / "broken" / "train" / "00000.arrow"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"00000\.arrow"):
        TokenCorpus(tmp_path / "broken")


def split_into_files(meds, split: str) -> None:
    """Each subject of a split in a file of its own."""
    (whole,) = (meds / "data" / split).glob("*.parquet")
    table = pl.read_parquet(whole)
    whole.unlink()
    for (subject,), part in table.group_by("subject_id", maintain_order=True):
        pq.write_table(part.to_arrow(), meds / "data" / split / f"{subject:03d}.parquet")


@pytest.mark.parametrize("layout", ["tagged", "smb"])
def test_the_number_of_workers_changes_no_byte(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(tokenizer, "ALONE_EVENTS", 0)
    spec = SPEC.model_copy(update={"format": layout})
    meds, splits = write_meds(tmp_path, ROWS)
    split_into_files(meds, "train")
    made = []
    for workers in (1, 3):
        out = tmp_path / f"{workers}"
        for name in ("tokenizer", "corpus"):
            (out / name).mkdir(parents=True)
        machine = Machine(workers, 64 << 30)
        train_tokenizer(spec, {"here": meds}, {"here": splits}, out / "tokenizer", machine=machine)
        write_corpus(spec, {"here": meds}, out / "tokenizer", out / "corpus", machine=machine)
        made.append(contents(out))
    assert made[0] == made[1]
    assert len([path for path in made[0] if path.match("train/*.arrow")]) == 8
    subjects = [r.subject_id for r in TokenCorpus(tmp_path / "3" / "corpus").subjects("train")]
    assert subjects == list(range(1, 9))


def test_a_crew_is_hired_for_much_work_only():
    machine = Machine(4, 64 << 30)
    assert tokenizer.crew_of(machine, 8, tokenizer.ALONE_EVENTS + 1).workers == 4
    assert tokenizer.crew_of(machine, 2, tokenizer.ALONE_EVENTS + 1).workers == 2
    assert tokenizer.crew_of(machine, 8, tokenizer.ALONE_EVENTS).workers == 1
    assert tokenizer.crew_of(machine, 0, 10**9).workers == 1


def test_statistics_show_truncation_by_context_and_split(made):
    tables = statistics.tables(made[2])
    lengths, cut = tables.values()
    assert "| held_out |" in lengths
    assert "8,000 tokens" in cut
    found = read_json(made[2] / "statistics.json")
    assert sum(found["histogram"]["subjects"]) == found["all"]["subjects"]
    assert base64.b64decode(statistics.lengths_png(made[2])).startswith(b"\x89PNG")


def test_statistics_of_nobody_have_a_picture_too(made, tmp_path):
    meds, _ = write_meds(tmp_path, {})
    (tmp_path / "out").mkdir()
    write_corpus(SPEC, {"here": meds}, made[1], tmp_path / "out")
    assert "–" in statistics.tables(tmp_path / "out")["tokens per subject"]
    assert base64.b64decode(statistics.lengths_png(tmp_path / "out")).startswith(b"\x89PNG")
