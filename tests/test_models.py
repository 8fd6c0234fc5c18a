"""Backbone, adapter, head: what is saved is what was trained, merged and exported. Small random models of the real classes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, BertConfig, BertModel

from catcli.adapter.folder import file_sha256
from catcli.arrays import FloatArray
from catcli.config import Method, Recipe
from catcli.data.dataset.examples import Examples
from catcli.errors import BackboneError, DeviceError, GateMissed, TrainingError
from catcli.export import parity
from catcli.export.exporters import to_onnx
from catcli.export.onnx_files import to_fp16, to_int8
from catcli.export.parity import decide_int8
from catcli.export.torch_inference import batch_tensors
from catcli.export.trained_model import TrainedModel, TrainingHistory
from catcli.inference.session import Session
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.models import device
from catcli.models.architectures import ARCHITECTURES, BERT_LR
from catcli.models.backbone import Backbone
from catcli.models.bases import MINILM
from catcli.models.classifier import Classifier, count_parameters
from catcli.models.device import pick_device, use_bf16
from catcli.models.lora import RowDropout
from catcli.models.methods import default_learning_rate, load_model, merge_model, prepare_model, save_model
from catcli.training import forward, loop
from catcli.training.base_features import compute_base_features
from catcli.training.checkpoint import Checkpoint
from catcli.training.head_init import fit_initial_head
from catcli.training.loop import Trainer
from catcli.training.schedule import choose_max_tokens, default_epochs, length_sorted_batches
from catcli.training.task import TrainingTask
from catcli.wording import duration

CLASSES = 3


@pytest.fixture
def base(tmp_path: Path) -> Backbone:
    """A random BERT of two small layers, saved where a base model lies, with the real vocabulary."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    config = BertConfig(vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(MINILM.tokenizer, encoding="utf-8")
    return replace(MINILM, folder=folder, published=file_sha256(folder / "model.safetensors"), layers=(1,))


@pytest.fixture
def trained(base: Backbone) -> Classifier:
    """Adapters that are no longer zero."""
    classifier = Classifier(base.load(), CLASSES)
    prepare_model(classifier, base, Recipe(rank=4))
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


def logits(classifier: Classifier, ids: torch.Tensor, mask: torch.Tensor) -> FloatArray:
    with torch.inference_mode():
        return np.asarray(classifier(ids, mask)["logits"].numpy(), np.float32)


def test_only_adapters_and_head_are_trained(trained: Classifier) -> None:
    learning = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in learning)
    # In the upper of two blocks three linear layers; A and B of rank 4; and the head.
    sizes = 4 * (32 + 32) + 2 * 4 * (32 + 64)
    assert not any(".layer.0." in name for name in learning)
    assert count_parameters(trained)[0] == sizes + 32 * CLASSES + CLASSES


def test_padding_changes_nothing(trained: Classifier) -> None:
    ids, mask = inputs(3, 8)
    padded_ids, padded_mask = (torch.cat([tensor, torch.zeros(3, 5, dtype=torch.long)], dim=1) for tensor in (ids, mask))
    assert np.allclose(logits(trained, ids, mask), logits(trained, padded_ids, padded_mask), atol=1e-5)


def test_saved_merged_and_exported_forms_give_the_same_logits(tmp_path: Path, base: Backbone, trained: Classifier) -> None:
    save_model(trained, base, "lora", tmp_path)
    again = load_model(base, "lora", tmp_path, CLASSES).eval()
    shapes = [inputs(2, 5), inputs(7, 33), inputs(4, 12, padded=6)]
    expected = [logits(trained, *shape) for shape in shapes]
    assert all(np.array_equal(logits(again, *shape), wanted) for shape, wanted in zip(shapes, expected, strict=True))
    merge_model(again, "lora")
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
    save_model(trained, base, "lora", tmp_path)
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


@pytest.mark.parametrize("reduce", [to_int8, to_fp16])
def test_reduced_models_are_smaller_and_near(tmp_path: Path, base: Backbone, reduce: Callable[[Path, Path], None]) -> None:
    classifier = Classifier(base.load(), CLASSES).eval()
    to_onnx(classifier, tmp_path / "model.onnx")
    reduce(tmp_path / "model.onnx", tmp_path / "small.onnx")
    feeds = dict(zip(("input_ids", "attention_mask"), (tensor.numpy() for tensor in inputs(4, 9)), strict=True))
    full, small = (Session(tmp_path / name, "cpu")._session.run(["logits"], feeds)[0] for name in ("model.onnx", "small.onnx"))
    assert 0 < np.abs(full - small).max() < 0.1
    assert small.dtype == np.float32
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size


def test_int8_stays_only_where_it_labels_alike_and_is_faster() -> None:
    assert decide_int8(0.995, 1.4).kept
    assert decide_int8(0.98, 2.0).reason == "dropped: the same category in 98.00% of rows, below 99%"
    assert decide_int8(1.0, 1.05).reason == "dropped: 1.05 x the speed of fp32 on this processor, no gain"


def test_a_merge_that_changes_logits_is_caught(
    tmp_path: Path, base: Backbone, trained: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(classifier: Classifier, method: Method) -> None:
        merge_model(classifier, method)
        classifier.head.bias.data += 1

    monkeypatch.setattr(parity, "merge_model", broken)
    whole = TrainedModel(trained, base, Tokenizer(base.tokenizer, 16), Recipe(rank=4), "cpu", TrainingHistory((), 1.0, 1.0), 0, 0)
    with pytest.raises(GateMissed, match="parity: the merged model's logits differ from the saved adapter's by up to 1.0e"):
        parity.export_fp32(whole, ["a mug", "a drill"], tmp_path, lambda *_: None)


def test_many_held_out_rows_are_scored_on_a_gpu_and_parity_is_of_the_cpu(
    tmp_path: Path, base: Backbone, trained: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainedModel(trained, base, Tokenizer(base.tokenizer, 16), Recipe(rank=4), "cpu", TrainingHistory((), 1.0, 1.0), 0, 0)
    opened = []

    class Recorded(Session):
        """A session whose logits tell where it was asked to be."""

        def __init__(self, file: Path, device: str = "auto") -> None:
            super().__init__(file, device)
            self._device = device
            opened.append(device)

        def logits(self, batch: TokenBatch) -> FloatArray:
            return super().logits(batch) + np.float32(self._device == "auto")

    monkeypatch.setattr(parity, "Session", Recorded)
    monkeypatch.setattr(parity, "has_cuda", lambda: True)
    monkeypatch.setattr(parity, "MIN_GPU_ROWS", 2)
    monkeypatch.setattr(parity, "PARITY_ROWS", 2)
    texts = ["a mug", "a drill", "soap"]
    few = parity.export_fp32(replace(whole, device="cuda"), texts[:2], tmp_path, lambda *_: None)
    assert opened == ["cpu"]
    alone = parity.export_fp32(whole, texts, tmp_path, lambda *_: None)  # a fit with --device cpu
    assert opened == ["cpu", "cpu"]
    many = parity.export_fp32(replace(whole, device="cuda"), texts, tmp_path, lambda *_: None)
    assert opened == ["cpu", "cpu", "cpu", "auto"]
    assert np.allclose(few.logits["fp32"], alone.logits["fp32"][:2], atol=1e-5)
    assert np.allclose(many.logits["fp32"], alone.logits["fp32"] + np.array([[0], [0], [1]]))
    assert many.parity[1].largest_difference < 1e-4


def test_logits_that_are_no_numbers_do_not_pass_the_gate() -> None:
    broken = parity._compare("merged", np.zeros((2, 2), np.float32), np.full((2, 2), np.nan, np.float32))
    assert not broken.largest_difference <= parity.MAX_LOGIT_DIFFERENCE


def test_a_training_that_diverges_gets_a_sentence(base: Backbone, tmp_path: Path) -> None:
    learner, _task = trainer(base)
    with torch.no_grad():
        learner.forward.classifier.head.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"training diverged: the loss is nan in epoch 1 of 3; try a lower --lr than 0\.005"):
        learner.train(checkpoint(tmp_path), None)


def test_weights_that_are_not_the_published_ones_are_refused(base: Backbone) -> None:
    other = replace(base, published="0" * 64)
    with pytest.raises(BackboneError, match="is not the published model of sentence-transformers/all-MiniLM-L6-v2; reinstall it with 'pip"):
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


TEXTS = [f"{('blue mug', 'red drill')[row % 2]} {row}" for row in range(40)]
ROWS = Examples.of(TEXTS, np.array([row % 2 for row in range(40)]))
CPU = torch.device("cpu")


def trainer(
    base: Backbone, *, cached: bool = True, held: int = 10, seconds: float | None = None, **options: object
) -> tuple[Trainer, TrainingTask]:
    """A trainer of a fresh classifier, and its task: the last rows are held out."""
    recipe = Recipe.model_validate({"epochs": 3, "batch_size": 8, "rank": 4, "lr": 5e-3, **options})
    base = base.used_by(recipe)
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load(), 2)
    prepare_model(classifier, base, recipe)
    reading = compute_base_features(base, Tokenizer(base.tokenizer, 12), TEXTS, CPU, bf16=False, advance=lambda *_: None)
    if not cached:
        reading = replace(reading, cache=None)
    learn = np.arange(len(TEXTS) - held)
    task = TrainingTask(reading, ROWS, learn, np.arange(len(learn), len(TEXTS)), 2, seconds)
    return Trainer(classifier, base, recipe, task, CPU), task


def checkpoint(folder: Path, fingerprint: str = "this run") -> Checkpoint:
    return Checkpoint(folder / "checkpoint.safetensors", fingerprint)


def weights(learner: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in learner.trained.items()}


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in one)


def test_the_head_of_another_base_learns_faster_the_shorter_its_vectors_are(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base.published
    other = replace(base, published=None)
    assert [other.head_rate(length) for length in (1.0, 2.9, 11.6, 100.0)] == [4.0, pytest.approx(4.0), 1.0, pytest.approx(0.116)]
    made: list[float] = []
    for used, method in ((base, "lora"), (other, "lora"), (other, "head")):
        learner, task = trainer(used, method=method, epochs=1)
        optimizer = learner._optimizer()
        monkeypatch.setattr(learner, "_optimizer", lambda optimizer=optimizer: optimizer)
        learner.train(checkpoint(tmp_path / str(len(made))), None)
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        head = {rates[id(parameter)] for name, parameter in learner.trained.items() if name.startswith("head.")}
        rest = {rates[id(parameter)] for name, parameter in learner.trained.items() if not name.startswith("head.")} or set(head)
        made.append(head.pop() / rest.pop())
        assert not head
        assert not rest
    length = float(np.linalg.norm(task.features.vectors, axis=1).mean())
    assert made == [1.0, pytest.approx(11.6 / length), 1.0]


def test_each_kind_of_base_has_its_learning_rate(base: Backbone) -> None:
    assert (default_learning_rate(MINILM, "lora"), default_learning_rate(MINILM, "full")) == (2e-3, 1e-4)
    other = replace(base, lr=ARCHITECTURES["gpt2"].lr, full_lr=2.5e-5)
    assert [default_learning_rate(other, method) for method in ("lora", "full", "head")] == [5e-4, 2.5e-5, 1e-3]
    assert {name for name, architecture in ARCHITECTURES.items() if architecture.lr == BERT_LR} == {
        "bert",
        "electra",
        "roberta",
        "xlm-roberta",
        "camembert",
        "distilbert",
        "mpnet",
    }


def test_training_learns_and_ends_with_the_best_epoch(base: Backbone, tmp_path: Path) -> None:
    learner, task = trainer(base, lr=2e-2)
    history = learner.train(checkpoint(tmp_path), None)
    losses = [epoch.validation_loss for epoch in history.epochs if epoch.validation_loss is not None]
    scores = learner.forward.classifier(*batch_tensors(task.features.tokenizer.padded(task.features.ids, task.validation.tolist()), CPU))[
        "logits"
    ]
    held = torch.nn.functional.cross_entropy(scores, torch.from_numpy(ROWS.classes[task.validation]))
    assert held.item() == pytest.approx(min(losses), abs=2e-3)
    assert (history.passes, history.planned_passes) == (float(np.argmin(losses)) + 1, 3.0)
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss


def test_the_same_seed_gives_the_same_adapter(base: Backbone, tmp_path: Path) -> None:
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        learner, _task = trainer(base, epochs=1, seed=seed)
        learner.train(checkpoint(tmp_path / str(number)), None)
        runs.append(weights(learner))
    assert alike(runs[0], runs[1])
    assert not alike(runs[0], runs[2])


def test_a_training_that_begins_above_the_lower_blocks_learns_the_same(base: Backbone, tmp_path: Path) -> None:
    learned = []
    for cached in (True, False):
        learner, task = trainer(base, cached=cached, dropout=0.0)
        assert (task.features.cache is not None) == cached
        learner.train(checkpoint(tmp_path / str(cached)), None)
        learned.append(weights(learner))
    assert alike(learned[0], learned[1], tolerance=2e-3)  # what enters the lowest adapter is kept in half precision
    assert not alike(learned[0], weights(trainer(base, dropout=0.0)[0]), tolerance=2e-3)


def test_a_batch_that_memory_is_too_short_for_teaches_the_same_in_pieces(
    base: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learner, task = trainer(base, dtype="fp32")
    learner.forward.classifier.eval()  # without dropout, whose draws hang on the shape of a batch
    rows = task.train[:8].tolist()

    def gradient() -> tuple[float, dict[str, torch.Tensor]]:
        learner.forward.classifier.zero_grad(set_to_none=True)
        with learner.forward.ready():
            loss = learner.forward.add_gradient(rows)
        return float(loss), {name: parameter.grad.clone() for name, parameter in learner.trained.items() if parameter.grad is not None}

    whole = gradient()
    real = learner.forward.batch_logits

    def short(batch: TokenBatch) -> torch.Tensor:
        if len(batch.rows) > 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )
        return real(batch)

    monkeypatch.setattr(learner.forward, "batch_logits", short)
    caplog.clear()
    pieces = gradient()
    assert pieces[0] == pytest.approx(whole[0], rel=1e-5)
    assert whole[1]
    assert alike(whole[1], pieces[1], 1e-5)
    sentence = "memory is too short for 8 rows at once: gradient accumulation over {} micro-batches"
    assert caplog.messages == [sentence.format(count) for count in (2, 4)]
    assert gradient()[0] == pieces[0]
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("method", ["lora", "pissa", "head"])
def test_matrices_that_are_rounded_once_give_the_gradient_of_autocast(
    base: Backbone, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(forward, "frozen_matrices", lambda _: [])
        learner, task = trainer(base, method=method, dtype="bf16")
        learner.forward.classifier.eval()  # without dropout
        before = [parameter.clone() for parameter in learner.forward.classifier.parameters()]
        with learner.forward.ready():
            kinds = {parameter.dtype for parameter in learner.forward.classifier.parameters()}
            loss = learner.forward.add_gradient(task.train[:8].tolist())
        found.append((kinds, loss, {name: one.grad for name, one in learner.trained.items() if one.grad is not None}))
        assert all(map(torch.equal, before, learner.forward.classifier.parameters()))
    assert [torch.bfloat16 in kinds for kinds, _, _ in found] == [True, False]
    assert found[0][1] == found[1][1]
    assert alike(found[0][2], found[1][2])


def test_a_backbone_is_whole_again_after_training(base: Backbone, tmp_path: Path) -> None:
    learner, _task = trainer(base, epochs=1)
    learner.train(checkpoint(tmp_path), None)
    assert len(base.blocks_of(learner.forward.classifier.backbone).modules) == 2


class KilledError(Exception):
    """Stands for SIGKILL in a training step."""


@pytest.mark.parametrize(
    ("method", "steps"), [("lora", 2), ("lora", 4), ("lora", 5), ("lora", 9), *((method, 5) for method in get_args(Method)[1:])]
)
def test_a_killed_training_goes_on_to_the_very_same_weights(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, steps: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # kept after every step, of which an epoch has four
    monkeypatch.setattr(loop, "MAX_CHECKPOINT_SHARE", float("inf"))
    through, _ = trainer(base, method=method)
    expected = through.train(checkpoint(tmp_path / "through"), None)

    killed, _ = trainer(base, method=method)
    gradient, done = killed.forward.add_gradient, 0

    def dies(rows: list[int]) -> torch.Tensor:
        nonlocal done
        done += 1
        if done > steps + loop.TIMED_STEPS + 1:
            raise KilledError
        return gradient(rows)

    monkeypatch.setattr(killed.forward, "add_gradient", dies)
    with pytest.raises(KilledError):
        killed.train(checkpoint(tmp_path), None)

    said: list[str] = []
    again, _task = trainer(base, method=method)
    again._log = said.append
    found = again.train(checkpoint(tmp_path), None)
    assert said == [f"going on from step {steps} of 12"]
    assert alike(weights(through), weights(again))
    assert [epoch.validation_loss for epoch in found.epochs] == [epoch.validation_loss for epoch in expected.epochs]
    assert [epoch.train_loss for epoch in found.epochs] == pytest.approx([epoch.train_loss for epoch in expected.epochs])


def test_a_checkpoint_of_other_rows_or_options_is_not_taken_up(base: Backbone, tmp_path: Path) -> None:
    learner, _task = trainer(base)
    learner.train(checkpoint(tmp_path, "other rows"), None)
    assert checkpoint(tmp_path).load() is None
    assert checkpoint(tmp_path, "other rows").load() is not None


def test_a_refit_repeats_the_passes_that_were_best(base: Backbone, tmp_path: Path) -> None:
    said: list[str] = []
    learner, _task = trainer(base, held=0)
    learner._log = said.append
    history = learner.train(checkpoint(tmp_path), TrainingHistory((), 2.0, 3.0))
    assert (len(history.epochs), history.passes, history.planned_passes) == (2, 2.0, 3.0)
    assert history.epochs[-1].validation_loss is None
    assert said[0].startswith("training: 2 epochs over 40 texts, ")


def test_a_time_budget_shortens_the_training_and_lets_the_rate_fall_within_it(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, _task = trainer(base, seconds=7.0)
    monkeypatch.setattr(learner, "_time_step", lambda: 1.0)
    history = learner.train(checkpoint(tmp_path), None)
    assert len(history.epochs) == 2  # four steps, and three of the second pass
    assert history.planned_passes == 7 / 4
    assert history.passes <= history.planned_passes


def test_the_head_starts_as_the_probe_of_the_base(base: Backbone) -> None:
    _, task = trainer(base)
    weight, bias = fit_initial_head(task.features.vectors, ROWS, 3)
    guessed = (task.features.vectors @ weight.T + bias).argmax(1)
    assert (guessed == ROWS.classes).mean() > 0.9
    assert bias[2] < bias[:2].min()  # a category without a row is possible, never favored


def test_dropout_takes_the_same_features_from_every_token_of_a_row() -> None:
    torch.manual_seed(0)
    dropout = RowDropout(0.5)
    dropped = dropout(torch.ones(3, 7, 1000))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[0], dropped[1])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(dropout.eval()(dropped), dropped)


def test_bf16_trains_too(base: Backbone, tmp_path: Path) -> None:
    learner, _task = trainer(base, dtype="bf16", lr=2e-2)
    assert learner.forward.bf16
    epochs = learner.train(checkpoint(tmp_path), None).epochs
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_batches_hold_every_row_once_and_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000).tolist()
    batches = list(length_sorted_batches(lengths, 16, np.random.default_rng(0)))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_open_options_follow_the_rows() -> None:
    assert [default_epochs(rows) for rows in (20, 2000, 100_000)] == [8, 4, 2]
    assert [choose_max_tokens([length] * 10) for length in (3, 17, 500)] == [16, 24, 128]


def test_a_gpu_that_is_not_there_gets_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device cuda: torch sees no CUDA device here; 'catcli doctor' shows"):
        pick_device("cuda")


@pytest.mark.parametrize(("instructions", "speedup", "taken"), [(True, 1.9, True), (True, 0.5, False), (False, 1.9, False)])
def test_a_cpu_trains_in_bfloat16_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, speedup: float, taken: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(device, "_bf16_speedup", lambda: speedup)
    assert use_bf16("auto", torch.device("cpu")) == taken
    assert (use_bf16("bf16", torch.device("cpu")), use_bf16("fp32", torch.device("cpu"))) == (True, False)


def test_the_speed_of_bfloat16_is_measured() -> None:
    assert device._bf16_speedup() > 0


def test_a_duration_is_as_precise_as_an_estimate() -> None:
    assert [duration(seconds) for seconds in (0.2, 44.6, 200, 9000)] == ["1 s", "45 s", "3 min", "2.5 h"]


def test_a_probe_of_more_categories_than_rows_of_each_says_nothing_odd() -> None:
    random = np.random.default_rng(0)
    examples = Examples.of([f"product {number}" for number in range(60)], np.arange(60) % 40)
    weight, bias = fit_initial_head(random.normal(size=(60, 8)).astype(np.float32), examples, 41)  # a warning would fail the test
    assert (weight.shape, bias.shape) == ((41, 8), (41,))
    assert bias[40] < bias[:40].min()
