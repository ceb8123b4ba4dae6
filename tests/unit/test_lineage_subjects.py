"""Which models used a subject, which used some code: told from salted lists and manifests."""

import stat

import pytest
from lineage_support import MadeUp

from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.lineage.subjects import EMBEDDED, FITTED, SCORED, TRAINED, SubjectLists
from jobs.questions import models_with_code, models_with_subject


@pytest.fixture
def made(tmp_path):
    """`demo` goes on from `base`, which was trained on 1 and 2 of cohort c."""
    home = MadeUp(tmp_path).chain()
    home.make("base/checkpoint", "x/token_corpus", content="base")
    home.make("demo/checkpoint", "x/token_corpus", "base/checkpoint", content="goes on")
    home.make("demo/node_embeddings", "demo/checkpoint", "c/decision_nodes", content="of it")
    home.make(
        "demo/probe_metrics",
        "demo/node_embeddings",
        content="of it",
        code_version="0ddba11c0de5.aaaaaaaaaaaa",
    )
    lists = SubjectLists(tmp_path)
    lists.keep(home.path("base/checkpoint"), {TRAINED: {"c": [1, 2]}})
    lists.keep(home.path("demo/checkpoint"), {TRAINED: {"c": [2, 3]}})
    lists.keep(home.path("demo/node_embeddings"), {EMBEDDED: {"c": [1, 2, 3, 9]}})
    lists.keep(home.path("demo/probe_metrics"), {FITTED: {"c": [3]}, SCORED: {"c": [9]}})
    lists.keep("datasets/gone/checkpoint/20250101T000000000000Z-abcabcabcabc", {TRAINED: {"c": [3]}})
    return home


def answers(made, subject, cohort="c"):
    found = models_with_subject(made.store, cohort, subject)
    return {a.model.split("/")[0]: a for a in found if "other" not in a.model and not a.unknown}


@pytest.mark.parametrize(
    ("subject", "base", "demo", "way"),
    [
        (1, [TRAINED], [EMBEDDED], True),
        (2, [TRAINED], [EMBEDDED, TRAINED], True),
        (3, [], [EMBEDDED, FITTED, TRAINED], False),
        (9, [], [EMBEDDED, SCORED], False),
        (5, [], [], False),
    ],
)
def test_what_a_model_did_with_a_subject(made, subject, base, demo, way):
    found = answers(made, subject)
    assert found["base"].roles == base
    assert found["demo"].roles == demo
    assert bool(found["demo"].by_way_of) is way
    assert found["demo"].trained is (way or subject == 3)
    assert found["gone"].gone
    assert found["gone"].trained is (subject == 3)


def test_another_cohort_s_subject_of_the_same_number_is_another(made):
    assert answers(made, 2, cohort="d")["base"].roles == []


def test_what_was_made_before_lists_were_kept_is_not_taken_for_unused(made):
    found = {a.model.split("/")[0]: a for a in models_with_subject(made.store, "c", 2)}
    assert found["other"].unknown
    assert not found["other"].trained


def test_lists_hold_no_id_and_are_private(made):
    home = made.store.home
    salt = home / "provenance" / "subject_salt"
    files = [salt, *(home / "provenance" / "subjects").rglob("*.parquet")]
    assert len(files) == 6
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    import polars as pl

    rows = pl.read_parquet(home / "provenance" / "subjects" / "base" / "checkpoint" / "*.parquet")
    assert rows.columns == ["role", "subject"]
    assert all(len(h) == 16 for h in rows["subject"])
    # Another installation's lists cannot be compared with these.
    SubjectLists(home / "other").keep("datasets/a/b/c", {TRAINED: {"c": [1, 2]}})
    others = pl.read_parquet(home / "other" / "provenance" / "subjects" / "a" / "b" / "*.parquet")
    assert not set(rows["subject"]) & set(others["subject"])
    salt.unlink()
    with pytest.raises(DatasetError, match="salt"):
        SubjectLists(home).roles_of(made.path("base/checkpoint"), "c", 1)


def test_which_models_used_some_code(made):
    def models(version):
        return {u.model.split("/")[0]: u for u in models_with_code(made.store, version)}

    sources = models("abcdef123456")  # the first part of a code version: of demo/checkpoint alone
    assert set(sources) == {"demo"}
    assert all(name.startswith("demo/checkpoint @ ") for u in sources.values() for name in u.made_from)
    by_probe = models("0ddba11")
    assert by_probe["demo"].made_from == []
    assert [name.split(" ")[0] for name in by_probe["demo"].scores] == ["demo/probe_metrics"]
    assert set(models("fedcba654321")) == {"base", "demo", "other"}
    assert models("eeeeeeeeee") == {}
    with pytest.raises(SpecError, match="letters"):
        models_with_code(made.store, "abc")


def test_lists_of_a_lost_salt_tell_nothing_rather_than_nobody(made, tmp_path):
    (tmp_path / "provenance" / "subject_salt").unlink()
    SubjectLists(tmp_path).keep(made.path("demo/probe_metrics"), {FITTED: {"c": [3]}})
    found = {a.model.split("/")[0]: a for a in models_with_subject(made.store, "c", 3)}
    assert found["base"].unknown
    assert found["gone"].unknown
    assert found["demo"].roles == [FITTED]
    assert not any(a.trained for a in found.values())
