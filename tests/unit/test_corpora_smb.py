"""The smb text: equal to its public reference at every cut, and its pieces know when they are read.

`smb_golden.json` was obtained by running a transcription (kept elsewhere: the package could not be installed)
of the reference, `process_ehr_info` of the public repository standardmodelbio/smb-utils
(src/smb_utils/ehr_process.py, commit 3488e357f048bb46135b4a1211f13425b9a641e5), on the hand-made records of
`smb_support.py`: for each cut the rows known by then, with `end_time` at the cut ("dropped") and without it
("kept"). None of its code is here.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from corpora_support import SPEC, T0, frame, known_at, random_rows, write_meds
from hypothesis import given, settings
from hypothesis import strategies as st
from smb_support import CODES, CUTS, RECORDS

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora import smb_whole
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import Record, TokenCorpus, shown_at, text_until, unrolled, window
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.training.cutting import Example, cut_example, possible_cuts
from ehr_assets.training.recipe_parts import DataSpec
from tests.benchmarks.plain import known, smb_text

GOLDEN = json.loads((Path(__file__).parent / "smb_golden.json").read_text(encoding="utf-8"))
UNITS = dict(CODES.select("code", "unit").iter_rows())
H = timedelta(hours=1)
END = datetime(2100, 1, 1)


def smb(**changes) -> CorpusSpec:
    return CorpusSpec.model_validate({**SPEC.model_dump(), "format": "smb", "smb": changes})


def drawn(record: Record, data: DataSpec, seed: int) -> Example:
    rng = np.random.default_rng(seed)
    return cut_example(record, rng.choice(possible_cuts(record, data)), data, rng)


def texts_at(events: pl.DataFrame, t: datetime | None, spec: CorpusSpec, codes=CODES) -> list[str]:
    return serialize(events, codes, spec).texts(None if t is None else np.datetime64(t, "us"))


@pytest.mark.parametrize("static", ["dropped", "kept"])
@pytest.mark.parametrize("name", RECORDS)
def test_the_text_at_any_cut_is_the_references(name, static):
    events = frame([(1, *row) for row in RECORDS[name]])
    spec = smb(static_rows=static)
    assert [texts_at(events, t, spec) for t in CUTS] == [[text] for text in GOLDEN[name][static]]
    for t, text in zip(CUTS, GOLDEN[name][static], strict=True):
        past = known_at(events, t)
        assert (texts_at(past, None, spec) or [""]) == [text]
        assert smb_text(past.to_pandas(), UNITS, static_rows=static == "kept") == text


def test_a_record_reads_as_documented():
    rows = RECORDS["more than five values, in two days"]
    assert texts_at(frame([(1, *row) for row in rows]), None, smb()) == [
        "\n[2020-03-01]\nLAB//hb (g/dL): 10.50, 10.62, 10.75, 10.88, 11.06"
        "\n\n[2020-03-02]\nLAB//hb (g/dL): 13.75"
    ]


def test_descriptions_may_stand_for_codes():
    rows = [
        (1, T0, "LAB//hb", 1.0, None, T0, "measurements"),
        (1, T0, "DX//C34", None, None, T0, "conditions"),
        (1, T0, "A (u)", 2.0, None, T0, "measurements"),
    ]
    assert texts_at(frame(rows), None, smb(names="description")) == [
        "\n[2020-03-01]\nLung cancer\nA (u): 2.00\nHemoglobin (g/dL): 1.00"
    ]


def test_codes_of_one_description_and_several_units_show_the_last_unit():
    codes = CODES.with_columns(description=pl.lit("Same"), unit=pl.col("code"))
    rows = [
        (1, T0, "LAB//hb", 1.0, None, T0 + 2 * H, "measurements"),
        (1, T0 + H, "LAB//na", 2.0, None, T0 + H, "measurements"),
        (1, T0 + 3 * H, "LAB//hb", 3.0, None, T0 + 3 * H, "measurements"),
    ]
    spec = smb(names="description")
    assert [texts_at(frame(rows), T0 + h * H, spec, codes)[0] for h in range(4)] == [
        "",
        "\n[2020-03-01]\nSame (LAB//na): 2.00",
        "\n[2020-03-01]\nSame (LAB//na): 1.00, 2.00",
        "\n[2020-03-01]\nSame (LAB//hb): 1.00, 2.00, 3.00",
    ]


@pytest.mark.parametrize(
    ("description", "unit"),
    [("Same", ["u", "v"]), ("Rate", ["u", "u"])],
    ids=["one name, two units", "one name begins as another"],
)
def test_a_line_that_is_compared_is_written_once_for_each_of_its_own_rows(monkeypatch, description, unit):
    """Counted, for on a dense day the lines beside it are many: they cost nothing."""
    other = description if unit[0] != unit[1] else f"{description} (Total)"
    codes = pl.DataFrame({"code": ["X", "Y"], "description": [description, other], "unit": unit})
    rows = [
        (1, T0 + i * H / 60, f"LAB{i % 30}", i, None, T0 + i * H / 50, "measurements") for i in range(600)
    ]
    for i, code in enumerate("XYXXYX"):
        rows.append((1, T0 + i * H, code, i, None, T0 + (2 * i + 1) * H, "measurements"))
    written = []
    write = smb_whole._Cell._text
    monkeypatch.setattr(smb_whole._Cell, "_text", lambda *a: written.append(a) or write(*a))
    (text,) = texts_at(frame(rows), None, smb(names="description"), codes)
    assert f"{description} (u): " in text
    assert 1 < len(written) <= 6


hours = st.sampled_from([0, 0.5, 1, 2, 5, 20, 30, 100])
event = st.builds(
    lambda s, t, late, code, section, number, words: (
        s,
        T0 + t * H,
        code,
        number,
        words,
        T0 + (t + late) * H,
        section,
    ),
    st.integers(1, 3),
    hours,
    st.sampled_from([0, 0, 0, 1, 3, 30, 100]),
    st.sampled_from(["LAB//hb", "LAB//hb", "A", "A (u)", "A: 1.00", "Stillbirth", "Birth"]),
    st.sampled_from(["measurements"] * 4 + list(SECTIONS)),
    st.none() | st.sampled_from([1.0, 2.5, 0.125, -0.001, float("nan"), float("inf")]),
    st.none() | st.sampled_from(["pos", "", ", ", "two\nlines", "<drugs>"]),
)
static = st.builds(
    lambda s, c, words: (s, None, c, None, words, None, "demographics"),
    st.integers(1, 3),
    st.sampled_from(["GENDER//F", "LAB//hb", "Stillbirth", "Birth"]),
    st.sampled_from([None, "2020-03-01"]),
)
records = st.tuples(st.lists(event, max_size=30), st.lists(static, max_size=3)).map(lambda p: [*p[0], *p[1]])


@settings(max_examples=150, deadline=None)
@given(records, st.sampled_from([-1, 0, 0.5, 1, 2, 3, 5, 6, 21, 31, 33, 60, 131, 300]), st.booleans())
def test_the_text_at_any_time_is_that_of_a_record_without_the_future(rows, hour, kept):
    t = T0 + hour * H
    events, spec = frame(rows), smb(static_rows="kept" if kept else "dropped")
    whole = serialize(events, CODES, spec)
    past = serialize(known_at(events, t), CODES, spec)
    at_t = dict(zip(whole.subject_id.tolist(), whole.texts(np.datetime64(t, "us")), strict=True))
    alone = dict(zip(past.subject_id.tolist(), past.texts(), strict=True))
    frames = {s: known(part.to_pandas(), t) for (s,), part in events.group_by("subject_id")}
    for subject, text in at_t.items():
        assert text == alone.get(subject, "")
        assert text == smb_text(frames[subject], UNITS, static_rows=kept)


@settings(max_examples=60, deadline=None)
@given(records)
def test_pieces_live_no_earlier_than_their_events_and_are_replaced_later(rows):
    events = frame(rows)
    pieces = serialize(events, CODES, smb(static_rows="kept"))
    assert pieces.until is not None
    assert not (pieces.until <= pieces.available).any()
    ordered = events.sort("subject_id", "available_time", "time", maintain_order=True)
    known_from = ordered["available_time"].to_numpy().astype("datetime64[us]")
    first = np.append(0, np.cumsum(pieces.events))[:-1]
    whose = np.repeat(np.arange(len(pieces.subject_id)), np.diff(pieces.starts))
    real = pieces.event_index >= 0
    assert not (pieces.available[real] < known_from[first[whose[real]] + pieces.event_index[real]]).any()


def test_an_empty_frame_gives_no_records():
    assert texts_at(frame([]), None, smb()) == []


# Tokens


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(spec, meds_dir, tokenizer_dir, corpus_dir)"""
    root = tmp_path_factory.mktemp("smb")
    rows = {"train": random_rows(range(1, 9), 1, events=60), "held_out": random_rows(range(21, 24), 3)}
    meds, splits = write_meds(root, rows)
    for name in ("tokenizer", "corpus"):
        (root / name).mkdir()
    train_tokenizer(smb(), {"here": meds}, {"here": splits}, root / "tokenizer")
    write_corpus(smb(), {"here": meds}, root / "tokenizer", root / "corpus")
    return smb(), meds, root / "tokenizer", root / "corpus"


def all_times(record) -> list[np.datetime64]:
    return [np.datetime64("1900-01-01", "us"), *np.unique(record.available[~np.isnat(record.available)])]


def test_tokens_shown_at_any_time_decode_to_the_text_at_that_time(made):
    from corpora_support import CODES as CODES_THERE

    _, meds, tokenizer, corpus = made
    events = pl.read_parquet(meds / "data" / "train" / "*.parquet")
    for record in TokenCorpus(corpus).subjects("train"):
        mine = events.filter(pl.col("subject_id") == record.subject_id)
        pieces = serialize(mine, CODES_THERE, smb())
        for t in all_times(record):
            assert [text_until(tokenizer, record, t)] == pieces.texts(t)
            assert len(window(record, t, 10_000)) == len(shown_at(record, t)) > 0


def test_before_anything_is_known_a_model_reads_an_empty_block(made):
    record = TokenCorpus(made[3]).record("train", 0)
    t = np.datetime64("1900-01-01", "us")
    tags = PieceTokenizer(made[2]).tag_ids
    assert record.token_ids[window(record, t, 64)].tolist() == [tags[0], tags[8]]
    assert text_until(made[2], record, t) == ""


def test_a_window_begins_with_a_line_and_holds_the_newest(made):
    for record in TokenCorpus(made[3]).subjects("train"):
        for t in all_times(record)[1::5]:
            whole = shown_at(record, t)
            for size in (16, 40, 90):
                shown = window(record, t, size)
                body = shown[shown >= record.n_demographics]
                assert len(shown) <= size
                assert body.tolist() == whole[len(whole) - len(body) :].tolist()
                if len(shown) < len(whole) and record.begins[whole[len(whole) - size // 2 :]].any():
                    assert record.begins[body[0]]


def test_an_example_reads_the_text_of_a_day_and_goes_on_with_the_days_after(made):
    tokenizer = PieceTokenizer(made[2])
    data = DataSpec(max_tokens=20_000, min_context_tokens=8, continuation_fraction=(0.9, 0.95))
    for record in TokenCorpus(made[3]).subjects("train"):
        example = drawn(record, data, 3)
        context = tokenizer.decode(example.token_ids[: example.n_context])
        days = np.unique(record.token_time[record.n_demographics :].astype("datetime64[D]"))
        # Days of which nothing was known at their end leave the text as it was the day before.
        asked = [
            day
            for day in days
            if context
            == text_until(made[2], record, (day + 1).astype("datetime64[us]") - np.timedelta64(1, "us"))
        ]
        after = tokenizer.decode(example.token_ids[example.n_context :])
        assert any(after.startswith(f"\n\n[{days[days > day][0]}]\n") for day in asked)
        assert after in text_until(made[2], record, END)


@pytest.mark.parametrize("least", [1, 8, 60])
def test_a_cut_leaves_enough_text_before_it_and_some_after(made, least):
    data = DataSpec(max_tokens=96, min_context_tokens=least, continuation_fraction=(0.2, 0.3))
    found = 0
    for record in TokenCorpus(made[3]).subjects("train"):
        cuts = possible_cuts(record, data)
        days = np.unique(record.token_time[record.n_demographics :].astype("datetime64[D]"))
        ends = (days + 1).astype("datetime64[us]") - np.timedelta64(1, "us")
        read = [(t, len(shown_at(record, t))) for t in ends]
        wanted = [t for t, n in read if n >= least and len(unrolled(record, t)[0]) > n]
        assert cuts.tolist() == [t.item() for t in wanted]
        found += len(cuts)
    assert found > 10


def test_the_context_of_an_example_is_the_newest_that_fits(made):
    data = DataSpec(max_tokens=48, min_context_tokens=30, continuation_fraction=(0.2, 0.3))
    cut_short = 0

    def has(whole: list[int], context: list[int]) -> bool:
        """Whether the context is a beginning of the text followed by its end."""
        ends = (len(whole) - len(context) + head for head in range(len(context)))
        return any(whole[:head] + whole[end:] == context for head, end in enumerate(ends))

    for record in TokenCorpus(made[3]).subjects("train"):
        texts = [record.token_ids[shown_at(record, t)].tolist() for t in possible_cuts(record, data)]
        for seed in range(5 if texts else 0):
            example = drawn(record, data, seed)
            context = example.token_ids[: example.n_context].tolist()
            assert len(example.token_ids) <= 48
            assert 1 <= len(example.token_ids) - len(context) <= 0.3 * 48
            assert any(has(whole, context) for whole in texts)
            cut_short += all(len(whole) > len(context) for whole in texts)
    assert cut_short > 5


def test_what_is_unrolled_knows_nothing_between_t_and_the_next_day(made):
    for record in TokenCorpus(made[3]).subjects("train"):
        t = np.sort(record.available[record.n_demographics :])[len(record) // 3]
        text, known_tokens = unrolled(record, t)
        assert not (text.available[:known_tokens] > t).any()
        assert (text.token_time[known_tokens:].astype("datetime64[D]") > t.astype("datetime64[D]")).all()


def test_the_tagged_format_has_no_versions(tmp_path):
    meds, splits = write_meds(tmp_path, {"train": random_rows(range(1, 3), 1)})
    for name in ("tokenizer", "corpus"):
        (tmp_path / name).mkdir()
    train_tokenizer(SPEC, {"here": meds}, {"here": splits}, tmp_path / "tokenizer")
    write_corpus(SPEC, {"here": meds}, tmp_path / "tokenizer", tmp_path / "corpus")
    assert TokenCorpus(tmp_path / "corpus").record("train", 0).until is None
