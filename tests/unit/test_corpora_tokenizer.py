"""The tokenizer: fitted on train only, same bytes every time, tags that text cannot forge."""

import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest
from corpora_support import SPEC, T0, frame, random_rows, read_json, write_meds

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.phrases import TAGS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import PieceCounts, train_tokenizer
from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.leakage.subjects import subjects_hash


def rows_by_split(held_out_text: str = "nothing") -> dict[str, list[tuple]]:
    late = [(21, T0, "NOTE", None, f"{held_out_text} {i}", T0, "notes") for i in range(50)]
    return {"train": random_rows(range(1, 9), 1), "tuning": random_rows(range(11, 13), 2), "held_out": late}


def fit(root, rows, spec=SPEC):
    meds, splits = write_meds(root, rows)
    out = root / "tokenizer"
    out.mkdir()
    return out, train_tokenizer(spec, {"here": meds}, {"here": splits}, out)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("fitted"), rows_by_split())[0]


def test_text_outside_train_does_not_change_a_byte(tmp_path, folder):
    other, _ = fit(
        tmp_path, rows_by_split("zyzzyva") | {"tuning": [(11, T0, "Q" * 30, None, None, T0, "notes")]}
    )
    assert contents(other) == contents(folder)


def test_text_in_train_does(tmp_path, folder):
    rows = rows_by_split()
    rows["train"] = rows["train"] + [(8, T0, "NOTE", None, f"zyzzyva {i}", T0, "notes") for i in range(9)]
    assert contents(fit(tmp_path, rows)[0])["tokenizer.json"] != contents(folder)["tokenizer.json"]


def test_it_says_whom_it_was_fitted_on(folder):
    assert read_json(folder / "fitted_on.json") == {
        "subjects_sha256": subjects_hash(range(1, 9)),
        "n_subjects": 8,
        "split": "train",
    }


def test_a_held_out_subject_in_the_train_files_is_refused(tmp_path):
    meds, splits = write_meds(tmp_path, rows_by_split())
    table = pl.DataFrame({"subject_id": list(range(1, 9)), "split": ["train"] * 7 + ["held_out"]})
    pq.write_table(table.to_arrow(), splits / "subject_splits.parquet")
    with pytest.raises(DatasetError, match=r"1 subject\(s\) in the train files are not in train"):
        train_tokenizer(SPEC, {"here": meds}, {"here": splits}, tmp_path)


def test_transformers_loads_it_with_the_same_ids(folder):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    ours = PieceTokenizer(folder)
    assert len(loaded) == ours.size <= 400
    assert loaded.convert_tokens_to_ids(list(TAGS)) == ours.tag_ids
    assert set(TAGS) <= set(loaded.all_special_tokens)
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == ("<pad>", "<bos>", "<eos>")
    text = "\nHemoglobin: 11.2 g/dL"
    assert loaded(text)["input_ids"] == ours.tokenize([*TAGS, text]).ids[16:].tolist()


def test_text_that_looks_like_a_tag_stays_text(folder):
    tokenizer = PieceTokenizer(folder)
    forged = tokenizer.tokenize([*TAGS, ": <drugs>", "\n</notes><pad>"])
    assert forged.ids[:16].tolist() == tokenizer.tag_ids
    assert not set(tokenizer.tag_ids) & set(forged.ids[16:].tolist())
    assert tokenizer.decode(forged.ids[forged.starts[16] : forged.starts[17]]) == ": <drugs>"


@pytest.mark.parametrize("text", ["\nNa⁺ 5 µg — 创伤", ": 1.25", " @-3d", "\n\x00é\u0301"])
def test_any_text_survives_the_round_trip(folder, text):
    tokenizer = PieceTokenizer(folder)
    assert tokenizer.decode(tokenizer.tokenize([*TAGS, text]).ids[16:]) == text


def test_a_cohort_without_train_subjects_gives_a_vocabulary_of_bytes(tmp_path):
    out, stats = fit(tmp_path, {split: [] for split in SPLITS})
    assert stats["subjects"] == 0
    assert PieceTokenizer(out).size == 256 + 16 + 3


def test_a_folder_tokenizer_gets_the_delimiters_and_fits_nothing(tmp_path, folder):
    given = tmp_path / "given"
    shutil.copytree(folder, given)
    (given / "fitted_on.json").unlink()
    spec = CorpusSpec.model_validate(
        {**SPEC.model_dump(), "tokenizer": {"kind": "folder", "path": str(given)}}
    )
    out, stats = fit(tmp_path / "out", rows_by_split(), spec)
    assert PieceTokenizer(out).tag_ids == PieceTokenizer(folder).tag_ids
    assert stats["subjects"] == read_json(out / "fitted_on.json")["n_subjects"] == 0


def test_a_foreign_tokenizer_is_extended_after_its_last_id(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"[UNK]": 0, "Sodium": 1, ":": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]").save_pretrained(tmp_path / "given")
    path = str(tmp_path / "given")
    spec = CorpusSpec.model_validate({**SPEC.model_dump(), "tokenizer": {"kind": "folder", "path": path}})
    out, _ = fit(tmp_path / "out", rows_by_split(), spec)
    tokenizer = PieceTokenizer(out)
    assert tokenizer.tag_ids == list(range(3, 19))
    assert tokenizer.unknown_id == 0
    assert tokenizer.tokenize([*TAGS, "\nSodium: high"]).ids[16:].tolist() == [1, 2, 0]


def test_a_missing_folder_is_named(tmp_path):
    spec = CorpusSpec.model_validate(
        {**SPEC.model_dump(), "tokenizer": {"kind": "folder", "path": "/no/such"}}
    )
    with pytest.raises(SpecError, match="/no/such"):
        fit(tmp_path, rows_by_split(), spec)
    with pytest.raises(DatasetError, match=r"no tokenizer\.json"):
        PieceTokenizer(tmp_path)


def test_rare_pieces_go_when_there_are_too_many():
    counts = PieceCounts(most=3, most_chars=1_000)
    counts.add({"often": 9, "twice": 2, "once": 1})
    assert len(counts.of) == 3
    counts.add({"new": 1, "often": 1, "never": 0})
    assert counts.of == {"often": 10, "twice": 2}
    long = PieceCounts(most=100, most_chars=10)
    long.add({"x" * 9: 1, "y" * 8: 2})
    assert long.of == {"y" * 8: 2}


def test_frames_of_the_helper_are_sorted():
    events = frame(random_rows(range(3), 0))
    assert events["subject_id"].is_sorted()
