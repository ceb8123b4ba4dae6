"""Spec files as text: what YAML 1.1 would twist, and what no file may do to its reader."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.errors import SpecError
from ehr_assets.specs import parse_spec, read_yaml
from ehr_assets.yamls import MAX_DEPTH, parse_yaml


@pytest.fixture
def read(tmp_path):
    def of(text: str | bytes):
        path = tmp_path / "spec.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_yaml(path)

    return of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NO, no, off, yes, on, y]", ["NO", "no", "off", "yes", "on", "y"]),
        ("[true, False]", [True, False]),
        ("2000-01-01", "2000-01-01"),
        ("2000-01-01 10:00:00", "2000-01-01 10:00:00"),
        ("12:30", "12:30"),
        ("[0042, 42, -1, 0]", ["0042", 42, -1, 0]),
        ("[0x1F, 0o17, 1_000]", ["0x1F", "0o17", "1_000"]),
        ("[1.5, 1e-4, .5, -2.]", [1.5, 1e-4, 0.5, -2.0]),
        ("[.nan, .inf]", [".nan", ".inf"]),
        ("[~, null, ]", [None, None]),
        ("", None),
        ("9" * 30, int("9" * 30)),
        ("9" * 5000, "9" * 5000),
        ("{on: a}", {"on": "a"}),
        ("'2000'", "2000"),
    ],
)
def test_scalars_are_what_they_look_like(read, text, value):
    assert read(f"a: {text}\n") == {"a": value}


def test_merge_keys_and_plain_aliases_work(read):
    assert read("a: &x {b: 1}\nc: {<<: *x, d: *x}\n")["c"] == {"b": 1, "d": {"b": 1}}


def test_a_byte_order_mark_is_no_character(read):
    assert read(b"\xef\xbb\xbfa: 1\n") == {"a": 1}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", r"the key 'a' is given twice.*\n.*line 3"),
        ("a:\n  - {x: 1, y: 2, x: 1}\n", "the key 'x' is given twice"),
        ("a:\n\t- 1\n", "line 2"),
        ("? [a, b]\n: 1\n", "a key must be a word"),
        ("? {a: b}\n: 1\n", "a key must be a word"),
        (BOMB, "multiply beyond all measure"),
        ("a: &x [*x]\n", "refers to what it is in"),
        ("a: &x {b: *x}\n", "refers to what it is in"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: !!int x\n", None),
        ("a: !!timestamp x\n", "could not determine a constructor"),
        ("a: \x07\n", "(?:special|control) characters are not allowed"),
        ("a: *nobody\n", "undefined alias"),
        ("- a\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: [1\n", "line"),
        (b"a: \xff\n", "not UTF-8"),
        ("a: 1\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_no_file_may_do_is_one_clear_error(read, text, why):
    if why is None:
        assert read(text) == {"a": "x"}
        return
    with pytest.raises(SpecError, match=f"(?s){why}") as e:
        read(text)
    assert "spec.yaml" in str(e.value)


def test_a_folder_is_no_spec(tmp_path):
    with pytest.raises(SpecError, match="cannot be read"):
        read_yaml(tmp_path)


COHORT = """
name: c
title: C
source: {kind: tables, root_env: EHR_C_ROOT}
subjects: {table: t, column: id}
tables:
  - name: t
    file: t
    subject_id: id
    missing: [NO, -1, 0042, 2000-01-01, on]
    events:
      - {code: X, section: drugs, time: {fixed: 2000-01-01}, when: {equals: {flag: no}}}
"""


def cohort(tmp_path, text: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_cohort(path)


def test_norway_dates_and_ids_reach_the_cohort_as_they_are_written(tmp_path):
    table = cohort(tmp_path, COHORT).tables[0]
    assert table.missing == ["NO", "-1", "0042", "2000-01-01", "on"]
    assert table.events[0].when.equals == {"flag": "no"}
    assert table.events[0].time
    assert table.events[0].time[0].fixed == "2000-01-01"


@pytest.mark.parametrize(
    "change",
    [
        ("title: C", "1: C"),
        ("title: C", "true: C\ntitle: C"),
        ("title: C", "title: [C]"),
        ("title: C", "title:"),
        ("tables:", "joins: [a]\ntables:"),
        ("tables:", "joins: {1: {file: x}}\ntables:"),
        ("tables:", "table_defaults: 3\ntables:"),
        ("tables:", "table_defaults: {1: 2}\ntables:"),
        ("    file: t", "    file: 3"),
        ("    file: t", "    file: " + "a" * 3 + "{b"),
        ("    file: t", "    joins: [{1: 2}]\n    file: t"),
        ("    file: t", "    joins: [[x]]\n    file: t"),
        ("    file: t", "    joins: 3\n    file: t"),
        ("source: {kind: tables, root_env: EHR_C_ROOT}", "source: {kind: meds}"),
        ("source: {kind: tables, root_env: EHR_C_ROOT}", "source: {kind: [meds]}"),
        ("source: {kind: tables, root_env: EHR_C_ROOT}", "source: meds"),
        ("fixed: 2000-01-01", "fixed: 2000-13-45"),
        ("fixed: 2000-01-01", "fixed: '0000-01-01'"),
        ("- name: t", "- 3\n  - name: t"),
        ("code: X", "code: 3"),
        ("code: X", "code: !!binary aGFsbG8="),
        ("id: id", "id: !!set {a, b}"),
    ],
)
def test_what_is_malformed_is_a_spec_error(tmp_path, change):
    assert change[0] in COHORT or change[0] == "id: id"
    with pytest.raises(SpecError):
        cohort(tmp_path, COHORT.replace(*change) if change[0] in COHORT else COHORT + change[1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(COHORT)),
    length=st.integers(0, 12),
    junk=st.one_of(
        st.text(max_size=8),
        st.sampled_from(["\t", "&a ", "*a", "{", "]", ": ", "- ", "!!", "|", "\n", "'", "#"]),
    ),
)
def test_no_damage_to_a_file_crashes_its_loader(tmp_path, at, length, junk):
    path = tmp_path / "c.yaml"
    text = COHORT[:at] + junk + COHORT[at + length :]
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with contextlib.suppress(SpecError):
        load_cohort(path)


WORDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["drugs", "t", "a{b}"]),
)
TREES = st.recursive(
    WORDS, lambda t: st.lists(t, max_size=3) | st.dictionaries(WORDS, t, max_size=3), max_leaves=6
)
KEYS = [
    "joins",
    "tables",
    "subjects",
    "source",
    "table_defaults",
    "splits",
    "decision_nodes",
    "time_zone",
    "name",
]


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(KEYS), tree=TREES)
def test_no_value_crashes_the_validation(key, tree):
    for data in (
        {**parse_yaml(COHORT), key: tree},
        {**parse_yaml(COHORT), "tables": [{"name": "t", key: tree}]},
    ):
        with contextlib.suppress(SpecError):
            parse_spec(CohortSpec, data, "c.yaml")
