"""The tagged serialization: its text, its blocks, and that the past is a prefix."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from corpora_support import CODES, SPEC, T0, frame, known_at
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_assets.corpora import phrases
from ehr_assets.corpora.serialize import Pieces, serialize
from ehr_assets.errors import DatasetError

D, H = timedelta(days=1), timedelta(hours=1)
BORN = datetime(1956, 3, 2)


def text(rows: list[tuple], spec=SPEC) -> str:
    (only,) = serialize(frame(rows), CODES, spec).texts()
    return only


def test_a_record_reads_as_documented():
    rows = [
        (1, None, "GENDER//F", None, None, None, "demographics"),
        (1, BORN, "MEDS_BIRTH", None, None, BORN, "demographics"),
        (1, T0, "DX//C34", None, None, T0 + 5 * D, "conditions"),
        (1, T0 + 5 * D, "LAB//na", 140.0, None, T0 + 5 * D, "measurements"),
        (1, T0 + 5 * D, "LAB//hb", 11.256, None, T0 + 5 * D, "measurements"),
        (1, T0 + 8 * D, "NOTE", None, "two\n  lines", T0 + 8 * D + 3 * H, "notes"),
        (1, T0 + 9 * D, "MEDS_DEATH", None, None, T0 + 9 * D, "death"),
    ]
    assert text(rows) == (
        "<demographics>\nGender: female\nAge: 64</demographics>"
        "<conditions>\nMalignant neoplasm of lung @-5d</conditions>"
        "<measurements>\nHemoglobin: 11.26 g/dL\nSodium: 140</measurements>"
        "+3d<notes>\nNOTE: two lines</notes>"
        "+21h<death>\nDeath</death>"
    )


def test_a_record_without_static_rows_or_events_still_has_its_demographics():
    assert (
        text([(1, BORN, "MEDS_BIRTH", None, None, BORN, "demographics")]) == "<demographics></demographics>"
    )
    assert text([(1, T0, "RX//40048", None, None, T0, "drugs")]) == (
        "<demographics></demographics><drugs>\nRX//40048</drugs>"
    )


def test_a_birth_known_at_the_end_of_the_day_gives_no_age_before():
    day_end = datetime(2020, 3, 1, 23, 59, 59)
    birth = (1, datetime(2020, 3, 1), "MEDS_BIRTH", None, None, day_end, "demographics")
    pieces = serialize(frame([birth, (1, T0, "LAB//hb", 1.0, None, T0, "measurements")]), CODES, SPEC)
    age = pieces.strings.index("\nAge: 0")
    assert pieces.available[pieces.piece == age].tolist() == [day_end]


def test_neighbours_do_not_lend_each_other_events():
    rows = [
        (1, BORN, "MEDS_BIRTH", None, None, BORN, "demographics"),
        (2, None, "GENDER//F", None, None, None, "demographics"),
        (3, T0, "RX//40048", None, None, T0, "drugs"),
        (4, T0, "RX//40048", None, None, T0, "drugs"),
    ]
    assert serialize(frame(rows), CODES, SPEC).texts() == [
        "<demographics></demographics>",
        "<demographics>\nGender: female</demographics>",
        "<demographics></demographics><drugs>\nRX//40048</drugs>",
        "<demographics></demographics><drugs>\nRX//40048</drugs>",
    ]


def test_an_empty_frame_gives_no_records():
    assert serialize(frame([]), CODES, SPEC).texts() == []


def test_long_texts_and_names_are_cut():
    spec = SPEC.model_copy(update={"max_text_chars": 5, "max_name_chars": 3})
    rows = [(1, T0, "NOTE", None, "abcdefgh", T0, "notes"), (1, T0, "LAB//hb", 1.0, None, T0, "notes")]
    assert text(rows, spec) == "<demographics></demographics><notes>\nHe…: 1 g/dL\nNO…: abcd…</notes>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(7.0, "7"), (-0.001, "0"), (0.125, "0.12"), (11.2, "11.2"), (1e7, "10000000"), (-3.5, "-3.5")],
)
def test_numbers_are_compact(value, shown):
    assert phrases.numbers(pl.Series([value], dtype=pl.Float32)).to_list() == [shown]


@pytest.mark.parametrize(
    ("delta", "shown"),
    [
        (timedelta(seconds=1), "1m"),
        (timedelta(minutes=14), "10m"),
        (timedelta(minutes=59), "55m"),
        (H, "1h"),
        (23.9 * H, "23h"),
        (D, "1d"),
        (59 * D, "59d"),
        (61 * D, "2mo"),
        (365 * D, "11mo"),
        (366 * D, "1y"),
        (450 * D, "1.2y"),
        (300_000 * D, "200y"),
    ],
)
def test_durations_round_down(delta, shown):
    us = np.array([delta // timedelta(microseconds=1)])
    assert phrases.DURATIONS[phrases.duration_index(us)[0]] == shown


def test_an_unknown_section_is_refused_without_naming_it():
    bad = frame([(1, T0, "A", None, None, T0, "notes")]).with_columns(section=pl.lit("vitals"))
    with pytest.raises(DatasetError, match="1 section name") as error:
        serialize(bad, CODES, SPEC)
    assert "vitals" not in str(error.value)


hours = st.integers(0, 120)
event = st.builds(
    lambda s, t, late, code, section, number, words: (
        s,
        T0 + t * H,
        code,
        number,
        words if number is None else None,
        T0 + t * H + late * H,
        section,
    ),
    st.integers(1, 3),
    hours,
    st.sampled_from([0, 0, 1, 30, 100]),
    st.sampled_from(["LAB//hb", "DX//C34", "NEW"]),
    st.sampled_from(phrases.SECTIONS),
    st.none() | st.sampled_from([1.0, 2.5]),
    st.none() | st.sampled_from(["ill", "</notes>", " "]),
)
static = st.builds(
    lambda s, c: (s, None, c, None, None, None, "demographics"),
    st.integers(1, 3),
    st.sampled_from(["GENDER//F", "RACE//X"]),
)
birth = st.builds(
    lambda s, t: (s, t, "MEDS_BIRTH", None, None, t, "demographics"),
    st.integers(1, 3),
    st.sampled_from([BORN, T0 - 3 * H, T0 + 2 * H]),
)
records = st.lists(event, max_size=14).flatmap(
    lambda e: st.tuples(st.lists(static, max_size=3), st.lists(birth, max_size=2)).map(
        lambda sb: [*e, *sb[0], *sb[1]]
    )
)


def known_pieces(pieces: Pieces, t: datetime) -> dict[int, list[tuple[str, int]]]:
    """Per subject, text and event of the pieces known at t; without the demographics tags if that is all."""
    seen = np.isnat(pieces.available) | (pieces.available <= np.datetime64(t, "us"))
    found = {}
    for i, s in enumerate(pieces.subject_id.tolist()):
        span = range(pieces.starts[i], pieces.starts[i + 1])
        found[s] = [(pieces.strings[pieces.piece[p]], int(pieces.event_index[p])) for p in span if seen[p]]
    return found


@settings(max_examples=150, deadline=None)
@given(records, hours)
def test_the_record_cut_at_t_is_what_was_known_of_the_whole(rows, cut):
    t = T0 + cut * H
    events = frame(rows)
    whole = known_pieces(serialize(events, CODES, SPEC), t)
    past = known_pieces(serialize(known_at(events, t), CODES, SPEC), datetime(2100, 1, 1))
    empty = [("<demographics>", -1), ("</demographics>", -1)]
    assert {s: p for s, p in whole.items() if s in past} == past
    assert all(p == empty for s, p in whole.items() if s not in past)


@settings(max_examples=100, deadline=None)
@given(records)
def test_blocks_nest_and_events_appear_once_in_order(rows):
    pieces = serialize(frame(rows), CODES, SPEC)
    for i in range(len(pieces.subject_id)):
        span = slice(pieces.starts[i], pieces.starts[i + 1])
        ids, event = pieces.piece[span], pieces.event_index[span]
        opened = None
        for tag in ids[ids < 16]:
            if tag < 8:
                assert opened is None
                opened = tag
            else:
                assert opened == tag - 8
                opened = None
        assert opened is None
        body = slice(int(pieces.n_demographics[i]), None)
        assert (ids[pieces.n_demographics[i] - 1]) == 8
        seen = event[body][event[body] >= 0]
        assert (np.diff(seen) >= 0).all()
        assert (np.diff(pieces.available[span][body].astype(np.int64)) >= 0).all()
        births = sum(r[2] == "MEDS_BIRTH" for r in rows if r[0] == pieces.subject_id[i])
        in_text = set(seen.tolist()) | set(event[: pieces.n_demographics[i]].tolist()) - {-1}
        assert pieces.events[i] - births <= len(in_text) <= pieces.events[i]


def test_every_piece_carries_its_events_row_and_times():
    rows = [
        (1, None, "GENDER//F", None, None, None, "demographics"),
        (1, T0, "DX//C34", None, None, T0 + 2 * D, "conditions"),
        (1, T0 + D, "LAB//hb", 9.0, None, T0 + D, "measurements"),
    ]
    pieces = serialize(frame(rows), CODES, SPEC)
    shown = [
        (pieces.strings[p], e, t, a)
        for p, e, t, a in zip(
            pieces.piece, pieces.event_index, pieces.time.tolist(), pieces.available.tolist(), strict=True
        )
    ]
    assert shown[3:] == [
        ("<measurements>", -1, T0 + D, T0 + D),
        ("\nHemoglobin", 1, T0 + D, T0 + D),
        (": 9 g/dL", 1, T0 + D, T0 + D),
        ("</measurements>", -1, T0 + D, T0 + D),
        ("+1d", -1, T0, T0 + 2 * D),
        ("<conditions>", -1, T0, T0 + 2 * D),
        ("\nMalignant neoplasm of lung", 2, T0, T0 + 2 * D),
        (" @-2d", 2, T0, T0 + 2 * D),
        ("</conditions>", -1, T0, T0 + 2 * D),
    ]
