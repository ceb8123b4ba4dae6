"""Nothing that lies in a folder of a model, or in a work folder, is run when it is loaded.

A pickle that would leave a trace is planted wherever something is loaded from.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from training_helpers import recipe_data, write_tokenizer

from ehr_assets.corpora.spec import FolderTokenizer
from ehr_assets.corpora.tokenizer import _adopt
from ehr_assets.errors import SpecError, TrainingError
from ehr_assets.model_folders import AsksForCodeError, load_tokenizer, refuse_code
from ehr_assets.models.backbone import build_backbone, load_backbone, with_lora
from ehr_assets.training.checkpoint import load_checkpoint

SIZES = {k: v for k, v in recipe_data()["backbone"].items() if k != "kind"}


class Trace:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trace(tmp_path):
    """A planted pickle; fails the test where it was run."""
    made = Trace(tmp_path / "it was run")
    yield made
    assert not made.path.exists()


@pytest.fixture
def model(tmp_path):
    """A sound folder: safetensors and a tokenizer."""
    folder = tmp_path / "model"
    build_backbone(vocab_size=40, **SIZES).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def adapter(tmp_path):
    """A sound adapter beside its backbone."""
    folder, backbone = tmp_path / "adapter", build_backbone(vocab_size=48, **SIZES)
    backbone.save_pretrained(folder / "backbone")
    lora = with_lora(backbone, r=4, alpha=8, dropout=0.0, trainable_tokens=[1, 2], base_name="backbone")
    lora.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_trace_is_one(tmp_path):
    pickle.loads(pickle.dumps(Trace(tmp_path / "it was run")))
    assert (tmp_path / "it was run").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_weights_that_are_pickles_are_refused_and_not_run(model, trace, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(trace))
    with pytest.raises(TrainingError, match=f"pickles.*{name}"):
        load_backbone(model)


def test_a_pickle_beside_safetensors_is_not_looked_at(model, trace):
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(trace))
    (model / "training_args.bin").write_bytes(pickle.dumps(trace))
    assert load_backbone(model)


def test_an_index_cannot_lead_to_a_pickle(model, trace):
    names = list(load_file(model / "model.safetensors"))
    (model / "model.safetensors").unlink()
    for shard in ("shard.bin", "../shard.safetensors"):
        (model / "shard.bin").write_bytes(pickle.dumps(trace))
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(TrainingError, match="names a shard that is no safetensors"):
            load_backbone(model)


def test_a_configuration_cannot_lead_to_a_pickle(model, trace):
    (model / "adapter_model.bin").write_bytes(pickle.dumps(trace))
    change(model / "config.json", transformers_weights="adapter_model.bin")
    with pytest.raises(TrainingError, match="not safetensors"):
        load_backbone(model)


def test_an_adapter_that_is_a_pickle_is_refused_and_not_run(adapter, trace):
    assert load_backbone(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(trace))
    with pytest.raises(TrainingError, match="pickles"):
        load_backbone(adapter)
    with pytest.raises(TrainingError, match="pickles"):
        load_checkpoint(adapter)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_a_folder_brings_is_refused_and_not_run(model, trace, name):
    (model / "modeling.py").write_text(f"import pathlib\npathlib.Path({str(trace.path)!r}).touch()\n")
    change(
        model / name, auto_map={"AutoModelForCausalLM": "modeling.X", "AutoTokenizer": ["modeling.X", None]}
    )
    with pytest.raises(TrainingError, match="auto_map"):
        load_backbone(model)
    with pytest.raises(AsksForCodeError, match="auto_map"):
        load_tokenizer(model)
    with pytest.raises(SpecError, match="auto_map"):
        _adopt(FolderTokenizer(kind="folder", path=str(model)), model)


def test_a_kernel_from_the_hub_is_refused(model):
    change(model / "config.json", attn_implementation="some-org/some-kernel")
    with pytest.raises(TrainingError, match="kernel"):
        load_backbone(model)


def test_a_tokenizer_needs_no_weights(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    assert load_tokenizer(model)
    with pytest.raises(AsksForCodeError):
        refuse_code(model)


def test_arrays_are_read_without_pickles(tmp_path, trace):
    """As everywhere here: `numpy.load` and scipy's `load_npz` with their defaults."""
    from scipy.sparse import csr_matrix, load_npz, save_npz

    np.save(tmp_path / "a.npy", np.array([trace], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "a.npy", mmap_mode=None)
    with pytest.raises(ValueError, match=r"memory-mapped|allow_pickle"):
        np.load(tmp_path / "a.npy", mmap_mode="r")
    save_npz(tmp_path / "b.npz", csr_matrix(np.eye(2)))
    parts = dict(np.load(tmp_path / "b.npz")) | {"data": np.array([trace], dtype=object)}
    np.savez(tmp_path / "b.npz", **parts)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_npz(tmp_path / "b.npz")
