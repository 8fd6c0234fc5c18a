"""Backbone, adapter, head: what is saved is what was trained, merged and exported. Small random models of the real classes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, BertConfig, BertModel

from catcli.errors import AdapterError, DeviceError, GateMissed, TrainingError
from catcli.models import export
from catcli.models.backbones import BACKBONES, Backbone
from catcli.models.classifier import Classifier, parameters, pick_device
from catcli.models.export import judge_int8, to_int8, to_onnx
from catcli.models.lora import add_adapters, load_adapter, merge, save_adapter
from catcli.models.training import Trainer, batches_of_like_length, default_epochs, fitting_max_tokens
from catcli.recipe import Recipe
from catcli.runtime.blend import Array
from catcli.runtime.session import Session
from catcli.runtime.tokens import Tokenizer

CLASSES = 3
MINILM = BACKBONES["minilm"]


@pytest.fixture
def base(tmp_path: Path) -> Backbone:
    """A random BERT of two small layers, saved where a base model lies, with the real vocabulary."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    config = BertConfig(vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(MINILM.tokenizer.read_bytes())
    from catcli.adapter import sha256

    return replace(MINILM, folder=folder, sha256=sha256(folder / "model.safetensors"), layers=(1,))


@pytest.fixture
def trained(base: Backbone) -> Classifier:
    """Adapters that are no longer zero."""
    classifier = Classifier(base.load(), CLASSES)
    add_adapters(classifier, base, Recipe(rank=4))
    torch.manual_seed(1)
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return classifier.eval()


def inputs(rows: int, tokens: int, padded: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * tokens)
    ids = torch.randint(5, 30_000, (rows, tokens), generator=generator)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    if padded:
        ids[0, -padded:], mask[0, -padded:] = 0, 0
    return ids, mask


def logits(classifier: Classifier, ids: torch.Tensor, mask: torch.Tensor) -> Array:
    with torch.inference_mode():
        return np.asarray(classifier(ids, mask)["logits"].numpy(), np.float32)


def test_only_adapters_and_head_are_trained(trained: Classifier) -> None:
    learning = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in learning)
    # In the upper of two blocks six linear layers; A and B of rank 4; and the head.
    sizes = 4 * 4 * (32 + 32) + 2 * 4 * (32 + 64)
    assert not any(".layer.0." in name for name in learning)
    assert parameters(trained)[0] == sizes + 32 * CLASSES + CLASSES


def test_padding_changes_nothing(trained: Classifier) -> None:
    ids, mask = inputs(3, 8)
    padded_ids, padded_mask = (torch.cat([tensor, torch.zeros(3, 5, dtype=torch.long)], dim=1) for tensor in (ids, mask))
    assert np.allclose(logits(trained, ids, mask), logits(trained, padded_ids, padded_mask), atol=1e-5)


def test_saved_merged_and_exported_forms_give_the_same_logits(tmp_path: Path, base: Backbone, trained: Classifier) -> None:
    save_adapter(trained, base, tmp_path)
    again = load_adapter(base, tmp_path, CLASSES).eval()
    shapes = [inputs(2, 5), inputs(7, 33), inputs(4, 12, padded=6)]
    expected = [logits(trained, *shape) for shape in shapes]
    assert all(np.array_equal(logits(again, *shape), wanted) for shape, wanted in zip(shapes, expected, strict=True))
    merge(again)
    to_onnx(again, tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", "cpu")._session
    assert sorted((value.name, tuple(value.shape)) for value in session.get_inputs()) == [
        ("attention_mask", ("rows", "tokens")),
        ("input_ids", ("rows", "tokens")),
    ]
    for (ids, mask), wanted in zip(shapes, expected, strict=True):
        assert np.abs(logits(again, ids, mask) - wanted).max() < 1e-4
        exported = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        assert np.abs(exported - wanted).max() < 1e-4


def test_plain_peft_loads_the_adapter_in_a_fresh_process(tmp_path: Path, base: Backbone, trained: Classifier) -> None:
    save_adapter(trained, base, tmp_path)
    ids, mask = inputs(2, 6)
    assert isinstance(trained.backbone, PeftModel)
    with torch.inference_mode():
        wanted = trained.backbone(input_ids=ids, attention_mask=mask).last_hidden_state.sum().item()
    code = f"""
import torch
from peft import PeftModel
from transformers import AutoModel
model = PeftModel.from_pretrained(AutoModel.from_pretrained({str(base.folder)!r}, add_pooling_layer=False), {str(tmp_path)!r}).eval()
ids, mask = torch.tensor({ids.tolist()}), torch.tensor({mask.tolist()})
print(model(input_ids=ids, attention_mask=mask).last_hidden_state.sum().item())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(wanted, abs=1e-3)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == MINILM.hub


def test_int8_is_smaller_and_near(tmp_path: Path, base: Backbone) -> None:
    classifier = Classifier(base.load(), CLASSES).eval()
    to_onnx(classifier, tmp_path / "model.onnx")
    to_int8(tmp_path / "model.onnx", tmp_path / "model.int8.onnx")
    feeds = dict(zip(("input_ids", "attention_mask"), (tensor.numpy() for tensor in inputs(4, 9)), strict=True))
    full, small = (Session(tmp_path / name, "cpu")._session.run(["logits"], feeds)[0] for name in ("model.onnx", "model.int8.onnx"))
    assert 0 < np.abs(full - small).max() < 0.1
    assert (tmp_path / "model.int8.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size


def test_int8_stays_only_where_it_labels_alike_and_is_faster() -> None:
    assert judge_int8(0.995, 1.4).kept
    assert judge_int8(0.98, 2.0).reason == "dropped: the same category in 98.00% of rows, below 99%"
    assert judge_int8(1.0, 1.05).reason == "dropped: 1.05 x the speed of fp32 on this processor, no gain"


def test_a_merge_that_changes_logits_is_caught(
    tmp_path: Path, base: Backbone, trained: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catcli.models.training import Trained

    def broken(classifier: Classifier) -> None:
        merge(classifier)
        classifier.head.bias.data += 1

    monkeypatch.setattr(export, "merge", broken)
    monkeypatch.setattr(export, "BACKBONES", {"minilm": base})
    whole = Trained(trained, Tokenizer(base.tokenizer, 16), Recipe(rank=4), "cpu", (), 0, 0)
    with pytest.raises(GateMissed, match="parity: the merged model's logits differ from the saved adapter's by up to 1.0e"):
        export.export_variants(whole, ["a mug", "a drill"], tmp_path, lambda *_: None)


def test_logits_that_are_no_numbers_do_not_pass_the_gate() -> None:
    broken = export._compare("merged", np.zeros((2, 2), np.float32), np.full((2, 2), np.nan, np.float32))
    assert not broken.largest_difference <= export.TOLERANCE


def test_a_training_that_diverges_gets_a_sentence(base: Backbone) -> None:
    learner = trainer(base)
    with torch.no_grad():
        learner.classifier.head.weight.fill_(float("inf"))
    ids = learner.tokenizer.encode(TEXTS)
    with pytest.raises(TrainingError, match=r"training diverged: the loss is nan in epoch 1 of 3; try a lower --lr than 0\.005"):
        learner.train(ids, TRUTH, ids, TRUTH)


def test_weights_that_are_not_the_published_ones_are_refused(base: Backbone) -> None:
    other = replace(base, sha256="0" * 64)
    with pytest.raises(AdapterError, match="is not the published model of sentence-transformers/all-MiniLM-L6-v2; reinstall it with 'pip"):
        other.load()


def test_the_embedded_model_is_the_published_one() -> None:
    MINILM.check()
    with torch.inference_mode():
        ours, theirs = MINILM.load().eval(), AutoModel.from_pretrained(MINILM.folder).eval()
        ids, mask = inputs(2, 7)
        assert torch.allclose(
            ours(input_ids=ids, attention_mask=mask).last_hidden_state,
            theirs(input_ids=ids, attention_mask=mask).last_hidden_state,
            atol=1e-5,
        )


def trainer(base: Backbone, epochs: int = 3, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    classifier = Classifier(base.load(), 2)
    recipe = Recipe(epochs=epochs, batch_size=8, rank=4, lr=5e-3, seed=seed)
    add_adapters(classifier, base, recipe)
    return Trainer(classifier, Tokenizer(base.tokenizer, 12), recipe, torch.device("cpu"), lambda *_: None)


TEXTS = [f"{('blue mug', 'red drill')[row % 2]} {row}" for row in range(40)]
TRUTH = np.array([row % 2 for row in range(40)])


def test_training_learns_and_ends_with_the_best_epoch(base: Backbone) -> None:
    learner = trainer(base)
    ids = learner.tokenizer.encode(TEXTS)
    epochs = learner.train(ids[:30], TRUTH[:30], ids[30:], TRUTH[30:])
    best = min(epoch.validation_loss for epoch in epochs)
    held = torch.nn.functional.cross_entropy(torch.from_numpy(learner.logits(ids[30:])), torch.from_numpy(TRUTH[30:]))
    assert held.item() == pytest.approx(best, abs=1e-5)
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_the_same_seed_gives_the_same_adapter(base: Backbone) -> None:
    runs = []
    for seed in (0, 0, 1):
        learner = trainer(base, epochs=1, seed=seed)
        ids = learner.tokenizer.encode(TEXTS)
        learner.start_head(ids, TRUTH)
        learner.train(ids[:30], TRUTH[:30], ids[30:], TRUTH[30:])
        runs.append(learner.logits(ids))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_the_head_starts_as_the_probe_of_the_base(base: Backbone) -> None:
    learner = trainer(base)
    ids = learner.tokenizer.encode(TEXTS)
    learner.start_head(ids, TRUTH)
    assert (learner.logits(ids).argmax(1) == TRUTH).mean() > 0.9


def test_batches_hold_every_row_once_and_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000).tolist()
    batches = list(batches_of_like_length(lengths, 16, np.random.default_rng(0)))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_open_options_follow_the_rows() -> None:
    assert [default_epochs(rows) for rows in (20, 2000, 100_000)] == [6, 4, 2]
    assert [fitting_max_tokens([length] * 10) for length in (3, 17, 500)] == [16, 24, 128]


def test_a_gpu_that_is_not_there_gets_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device cuda: torch sees no CUDA device here; 'catcli doctor' shows"):
        pick_device("cuda")
