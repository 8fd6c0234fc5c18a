"""Every architecture and every way of learning: adapter, merged model and ONNX are one. Small random models of the real classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_bases import CONFIGS, WORDS, save_base

from catcli.adapter.vetting import check_model
from catcli.arrays import FloatArray
from catcli.config import Method, Recipe
from catcli.export import exporters
from catcli.export.exporters import to_onnx
from catcli.export.onnx_files import to_fp16, to_int8
from catcli.export.torch_inference import batch_tensors
from catcli.inference.session import Session
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.models.backbone import Backbone
from catcli.models.bases import find_base
from catcli.models.classifier import Classifier
from catcli.models.methods import load_model, merge_model, prepare_model, save_model

CLASSES = 3
METHODS: tuple[Method, ...] = ("lora", "rslora", "dora", "pissa", "full", "head")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    """All of them, saved and found again as ``--base FOLDER`` finds one."""
    root = tmp_path_factory.mktemp("bases")
    return {name: find_base(str(save_base(name, root / name))) for name in CONFIGS}


def learned(base: Backbone, method: Method) -> Classifier:
    """A classifier whose trainable weights have moved."""
    torch.manual_seed(1)
    classifier = Classifier(base.load(), CLASSES, base.pool)
    prepare_model(classifier, base, Recipe(method=method, rank=4))
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return classifier.eval()


def batches(base: Backbone) -> list[TokenBatch]:
    """Two shapes, and one with padding."""
    tokenizer = Tokenizer(base.tokenizer, 24, base.pad_id)
    short, long = tokenizer.encode([WORDS[0]])[0], tokenizer.encode([" ".join(WORDS[:9])])[0]
    return [tokenizer.padded(ids, range(len(ids))) for ids in ([short] * 2, [long] * 5, [short, long, short[:3]])]


def logits(classifier: Classifier, given: list[TokenBatch]) -> list[FloatArray]:
    with torch.inference_mode():
        return [np.asarray(classifier(*batch_tensors(batch, torch.device("cpu")))["logits"].numpy()) for batch in given]


def furthest(one: list[FloatArray], other: list[FloatArray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def saved_merged_and_exported(base: Backbone, method: Method, folder: Path) -> tuple[float, float, float]:
    """Largest differences of logits from what was learned: of the saved form, the merged one and ONNX."""
    classifier, given = learned(base, method), batches(base)
    expected = logits(classifier, given)
    save_model(classifier, base, method, folder)
    again = load_model(base, method, folder, CLASSES).eval()
    read_back = furthest(expected, logits(again, given))
    merge_model(again, method)
    merged = furthest(expected, logits(again, given))
    to_onnx(again, folder / "model.onnx")
    session = Session(folder / "model.onnx", "cpu")
    return read_back, merged, furthest(expected, [session.logits(batch) for batch in given])


@pytest.mark.parametrize(("name", "method"), [("bert", "full"), ("deberta", "lora")])
def test_no_library_prints_while_a_model_is_saved_loaded_and_exported(
    name: str, method: Method, bases: dict[str, Backbone], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    saved_merged_and_exported(bases[name], method, tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_torch_exports_where_optimum_cannot_be_imported(
    name: str, bases: dict[str, Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside transformers 5, where CI exports every architecture so: the same parity, a vetted file, and the same reduced ones."""
    if not exporters.has_optimum():
        pytest.skip("torch makes every export here, which the other tests look at")
    monkeypatch.setattr(exporters, "has_optimum", lambda: False)
    assert max(saved_merged_and_exported(bases[name], "lora", tmp_path)) < 1e-4
    check_model(tmp_path / "model.onnx", ())
    for number, reduce in enumerate((to_int8, to_fp16)):
        reduce(tmp_path / "model.onnx", tmp_path / f"{number}.onnx")
        check_model(tmp_path / f"{number}.onnx", ())


@pytest.mark.parametrize("name", CONFIGS)
def test_adapter_merged_and_onnx_agree_in_every_architecture(name: str, bases: dict[str, Backbone], tmp_path: Path) -> None:
    assert max(saved_merged_and_exported(bases[name], "lora", tmp_path)) < 1e-4
    check_model(tmp_path / "model.onnx", ())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_every_method_is_saved_merged_and_exported_as_it_was_learned(
    name: str, method: Method, bases: dict[str, Backbone], tmp_path: Path
) -> None:
    assert max(saved_merged_and_exported(bases[name], method, tmp_path)) < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_names_every_linear_layer_of_the_blocks(name: str, bases: dict[str, Backbone]) -> None:
    base = bases[name]
    blocks = base.blocks_of(base.load()).modules
    linear = {
        place.rpartition(".")[2]
        for place, module in blocks.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    }
    assert linear == {target for target in base.targets if target in linear}


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_what_stands_in_the_padding_changes_nothing(name: str, pool: str, bases: dict[str, Backbone]) -> None:
    base = bases[name].used_by(Recipe.model_validate({"pool": pool}))
    classifier = learned(base, "lora")
    alone, padded = batches(base)[0], batches(base)[2]
    odd = TokenBatch(np.where(padded.mask == 1, padded.ids, 7), padded.mask, padded.rows)
    found = logits(classifier, [alone, padded, odd])
    assert np.allclose(found[1], found[2], atol=1e-5)
    assert np.allclose(found[0][0], found[1][0], atol=1e-5)


def test_the_pools_are_the_mean_the_first_and_the_last_token(bases: dict[str, Backbone]) -> None:
    base = bases["bert"]
    ids, mask = batch_tensors(batches(base)[2], torch.device("cpu"))
    backbone_ = base.load().eval()
    with torch.inference_mode():
        states = backbone_(input_ids=ids, attention_mask=mask).last_hidden_state
        found = {pool: Classifier(backbone_, CLASSES, pool).pooled(ids, mask) for pool in ("mean", "cls", "last")}
    lengths = mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(found["mean"][row], states[row, :length].mean(0), atol=1e-6)
        assert torch.equal(found["cls"][row], states[row, 0])
        assert torch.equal(found["last"][row], states[row, length - 1])
