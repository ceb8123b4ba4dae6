"""Tokenizer folders that others made: each family keeps its own tokens, and pieces keep their meaning."""

import contextlib
import json

import numpy as np
import pytest
from corpora_support import SPEC, random_rows, read_json, write_meds
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import TokenCorpus, text_until
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.errors import SpecError

TEXTS = [
    "Hemoglobin: 11.2 g/dL",
    "Malignant neoplasm of lung",
    "[2020-03-01]",
    "stable lesion, growing",
    "Na",
] * 9
# How Qwen and Llama 3 split before merging.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_level(bos: bool) -> Tokenizer:
    """GPT-2, Qwen, Llama 3: byte-level BPE; the last puts its begin token before every text."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|begin|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens([AddedToken("<think>", normalized=False)])
    if bos:
        made.post_processor = TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 1)]
        )
    return made


def sentencepiece() -> Tokenizer:
    """Llama 2, Mistral: BPE over ▁, unknown characters as bytes, a begin token."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    letters = sorted({c for text in TEXTS for c in text if c != " "})
    vocabulary = {w: i for i, w in enumerate([*words, *letters])}
    model = models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return made


def wordpiece() -> Tokenizer:
    """BERT: lower-cased WordPiece with an unknown token."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


FAMILIES = {
    "qwen": lambda: byte_level(bos=False),
    "llama3": lambda: byte_level(bos=True),
    "sentencepiece": sentencepiece,
    "wordpiece": wordpiece,
}


def folder_spec(path, layout="tagged") -> CorpusSpec:
    given = {"kind": "folder", "path": str(path)}
    return CorpusSpec.model_validate({**SPEC.model_dump(), "tokenizer": given, "format": layout})


def write_folder(folder, tokenizer: Tokenizer):
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def adopted(request, tmp_path_factory):
    """(family, the tokenizer as it was given, the corpus' tokenizer folder)"""
    root = tmp_path_factory.mktemp(request.param)
    given = FAMILIES[request.param]()
    write_folder(root / "given", given)
    (root / "out").mkdir()
    train_tokenizer(folder_spec(root / "given"), {}, {}, root / "out")
    return request.param, given, root / "out"


def ids_of(folder, pieces: list[str]) -> list[list[int]]:
    tokens = PieceTokenizer(folder).tokenize([*TAGS, *pieces])
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.starts[16:-1], tokens.starts[17:], strict=True)]


def test_its_own_ids_stay_and_the_tags_follow(adopted):
    _, given, folder = adopted
    tokenizer = PieceTokenizer(folder)
    size = given.get_vocab_size(with_added_tokens=True)
    assert tokenizer.tag_ids == list(range(size, size + 16))
    assert tokenizer.size == size + 16
    ours = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    assert given.get_vocab().items() <= ours.items()


def test_no_begin_or_end_token_stands_in_a_piece(adopted):
    family, given, folder = adopted
    special = {given.token_to_id(t) for t in ("<|begin|>", "<s>", "</s>", "[CLS]", "[SEP]")} - {None}
    found = {i for ids in ids_of(folder, ["\nHemoglobin", " 11.20", ", 9.00", "lung"]) for i in ids}
    assert not found & special
    assert special or family == "qwen"


def test_a_piece_gets_no_space_that_is_not_in_it(adopted):
    """Metaspace would put a ▁ before each piece, so that `: 11.2` read ` : 11.2`."""
    family, _, folder = adopted
    tokenizer = PieceTokenizer(folder)
    vocabulary = {i: w for w, i in Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().items()}
    (colon,) = ids_of(folder, [": 11.2"])
    assert not vocabulary[colon[0]].startswith(("▁", "Ġ"))
    if family != "wordpiece":
        pieces = ["\nHemoglobin", ":", " 11.20", ", 9.00"]
        together = [i for ids in ids_of(folder, pieces) for i in ids]
        assert tokenizer.decode(together) == "".join(pieces)


def test_text_that_looks_like_a_token_stays_text(adopted):
    _, given, folder = adopted
    special = {i for w, i in given.get_vocab().items() if w in {"<|endoftext|>", "<s>", "[CLS]"}}
    special |= set(PieceTokenizer(folder).tag_ids)
    found = {i for ids in ids_of(folder, [": <drugs>", "<|endoftext|>", "<s>", "[CLS]"]) for i in ids}
    assert not found & special


def test_unknown_words_are_counted(adopted, tmp_path):
    family, _, folder = adopted
    rows = [(1, None, f"創//{i}", None, None, None, "demographics") for i in range(3)]
    meds, _ = write_meds(tmp_path, {"train": rows})
    (tmp_path / "out").mkdir()
    stats = write_corpus(folder_spec("unused"), {"here": meds}, folder, tmp_path / "out")
    assert (stats["unknown_tokens"] >= 3) == (family == "wordpiece")


@pytest.mark.parametrize("layout", ["tagged", "smb"])
def test_a_corpus_reads_back_as_its_text(adopted, tmp_path, layout):
    family, _, folder = adopted
    if family == "wordpiece":
        pytest.skip("WordPiece drops spaces and case: its tokens do not spell the text")
    from corpora_support import CODES, frame

    from ehr_assets.corpora.serialize import serialize

    rows = random_rows(range(1, 5), 1)
    meds, _ = write_meds(tmp_path, {"train": rows})
    (tmp_path / "out").mkdir()
    spec = folder_spec("unused", layout)
    write_corpus(spec, {"here": meds}, folder, tmp_path / "out")
    end = np.datetime64("2100-01-01", "us")
    read = [text_until(folder, r, end) for r in TokenCorpus(tmp_path / "out").subjects("train")]
    assert read == serialize(frame(rows), CODES, spec).texts()


def test_it_is_loadable_by_transformers_with_nothing_fitted(adopted):
    from transformers import AutoTokenizer

    _, _, folder = adopted
    assert len(AutoTokenizer.from_pretrained(folder)) == PieceTokenizer(folder).size
    assert read_json(folder / "fitted_on.json")["n_subjects"] == 0


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "BPE"}}', "[1]"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path, content):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "tokenizer.json").write_text(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match="given"):
        train_tokenizer(folder_spec(tmp_path / "given"), {}, {}, tmp_path / "out")


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path):
    folder = write_folder(tmp_path / "given", byte_level(bos=False))
    mark = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "out").mkdir()
    with contextlib.suppress(SpecError):
        train_tokenizer(folder_spec(folder), {}, {}, tmp_path / "out")
    assert not mark.exists()
