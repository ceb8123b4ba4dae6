"""Corpus specs: the shipped ones load, mistakes are named."""

from pathlib import Path

import pytest

import ehr_assets.corpora
from ehr_assets.corpora.spec import BpeTokenizer, FolderTokenizer, load_corpus
from ehr_assets.errors import SpecError

SPECS = sorted((Path(ehr_assets.corpora.__file__).parent / "specs").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_shipped_specs_load_under_their_own_name(path):
    assert load_corpus(path).name == path.stem


def test_overrides_replace_single_keys():
    spec = load_corpus(SPECS[0], {"tokenizer.vocab_size": 300})
    assert isinstance(spec.tokenizer, BpeTokenizer)
    assert spec.tokenizer.vocab_size == 300


def test_a_tokenizer_may_be_brought_along():
    spec = load_corpus(SPECS[0], {"tokenizer": {"kind": "folder", "path": "somewhere"}})
    assert isinstance(spec.tokenizer, FolderTokenizer)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"tokenizer.vocab_sise": 300}, "vocab_size"),
        ({"tokenizer.vocab_size": 100}, "vocab_size"),
        ({"cohorts": []}, "cohorts"),
        ({"cohorts": ["a", "a"]}, "named twice"),
        ({"format": "xml"}, "format"),
        ({"smb": {"names": "description"}}, "format 'tagged' does not read smb"),
        (
            {"format": "smb", "max_text_chars": 5, "max_name_chars": 9},
            "read max_text_chars, max_name_chars",
        ),
    ],
)
def test_mistakes_are_named(overrides, says):
    with pytest.raises(SpecError, match=says):
        load_corpus(SPECS[0], overrides)
