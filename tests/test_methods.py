"""Fits with other bases, methods and balances, from rows to labels, and what an adapter of each is made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Shop, catcli, fit
from small_bases import CONFIGS, save_base

from catcli.adapter.folder import load_adapter
from catcli.config import LORA_METHODS, METHOD_TITLES, Balance, Method, Recipe, shipped_recipes
from catcli.data.dataset.examples import Examples
from catcli.errors import AdapterError, BackboneError, UsageError
from catcli.evaluation.calibration import class_shares
from catcli.export import exporters, parity
from catcli.export.exporters import to_onnx
from catcli.export.onnx_files import external_weight_files, to_fp16, to_int8
from catcli.inference.labeler import Labeler
from catcli.inference.session import Session
from catcli.models.bases import find_base
from catcli.models.classifier import Classifier
from catcli.models.losses import class_weights, implied_class_shares, make_row_loss
from catcli.training.fit import FitResult
from catcli.training.linear_balance import balance_weights, logit_adjustment

pytestmark = pytest.mark.slow

METHODS: tuple[Method, ...] = get_args(Method)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT."""
    return save_base("bert", tmp_path_factory.mktemp("base") / "small-bert")


def fitted(shop: Shop, folder: Path, **options: object) -> FitResult:
    recipe = Recipe.make(**{"epochs": 1, "max_tokens": 24, "device": "cpu", "refit": False, **options})
    return fit([str(shop.products)], recipe=recipe, output=folder)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_fitted_and_labels_in_a_fresh_process(shop: Shop, small: Path, tmp_path: Path, method: Method) -> None:
    made = fitted(shop, tmp_path / "one", base=str(small), method=method)
    files = set(made.adapter.manifest.files)
    assert ("adapter_model.safetensors" in files) == (method in LORA_METHODS)
    assert ({"config.json", "model.safetensors"} <= files) == (method == "full")
    if method == "full":
        config = json.loads((tmp_path / "one" / "config.json").read_text())
        assert (config["hidden_dropout_prob"], config["architectures"]) == (0.1, ["BertModel"])
        assert str(small) not in (tmp_path / "one" / "config.json").read_text()
    training = made.metrics.training
    assert (training.trained == training.total) == (method == "full")
    assert training.learned_bytes > 4 * training.trained
    assert made.adapter.manifest.base.hub == "small-bert"  # a name, and no place on this machine
    catcli("predict", shop.catalog, "-o", "out.csv", "--adapter", "one", "--variant", "fp32", "-q", cwd=tmp_path, check=True)
    labeled = pl.read_csv(tmp_path / "out.csv")
    cells = pl.read_csv(shop.catalog, infer_schema=False)
    from catcli.data.dataset.text import row_texts

    texts = row_texts(cells, made.adapter.manifest.text, made.adapter.manifest.prices)
    here = Labeler(made.adapter, "cpu", "fp32").label(texts)
    assert labeled["predicted_category"].to_list() == [made.adapter.manifest.categories[number] for number in here.classes[:, 0]]
    shown = catcli("report", "one", cwd=tmp_path, check=True).stdout
    assert f"{METHOD_TITLES[method]} alone" in shown


@pytest.mark.parametrize("name", ["gpt2", "t5", "deberta", "qwen3"])
def test_other_architectures_are_fitted_from_a_folder(shop: Shop, tmp_path: Path, name: str) -> None:
    base = save_base(name, tmp_path / name)
    made = fitted(shop, tmp_path / "one", base=str(base))
    assert max(form.largest_difference for form in made.metrics.parity if form.form in ("merged", "ONNX fp32")) < 1e-4
    told = json.loads((tmp_path / "one" / "recipe.json").read_text())
    assert (told["base"], told["pool"]) == (str(base), find_base(str(base)).pool)
    blank = Labeler(made.adapter, "cpu", "fp32").label(["", "blue mug"])
    assert np.isfinite(blank.confidences).all()


def test_the_adapter_of_a_fit_is_loaded_by_plain_peft_in_a_fresh_process(shop: Shop) -> None:
    from catcli.models.bases import MINILM
    from catcli.models.methods import load_model

    saved = load_model(MINILM, "lora", Path(shop.adapter), len(shop.fitted.adapter.manifest.categories)).eval()
    with torch.inference_mode():
        ids, mask = torch.tensor([[101, 2630, 14757, 102]]), torch.ones(1, 4, dtype=torch.long)
        wanted = saved.backbone(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    code = f"""
import torch
from peft import PeftModel
from transformers import AutoModel
model = PeftModel.from_pretrained(AutoModel.from_pretrained({str(MINILM.folder)!r}), {shop.adapter!r}).eval()
ids, mask = torch.tensor([[101, 2630, 14757, 102]]), torch.ones(1, 4, dtype=torch.long)
with torch.inference_mode():
    print(model(input_ids=ids, attention_mask=mask).last_hidden_state.flatten().tolist())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert np.allclose(json.loads(ran.stdout), wanted.flatten(), atol=1e-5)


def test_places_for_adapters_can_be_named_and_are_taken_in_every_block(shop: Shop, small: Path, tmp_path: Path) -> None:
    made = fitted(shop, tmp_path / "one", base=str(small), targets=("query", "value"), rank=2)
    told = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (sorted(told["target_modules"]), told["layers_to_transform"]) == (["query", "value"], None)
    classes = len(made.adapter.manifest.categories)
    # Two blocks, two layers each, A and B of rank 2 beside 32 x 32; and the head.
    assert made.metrics.training.trained == 2 * 2 * 2 * 2 * 32 + 33 * classes


def test_what_means_nothing_together_gets_a_sentence(shop: Shop, small: Path, tmp_path: Path) -> None:
    def says(*options: str) -> str:
        result = catcli("fit", shop.products, "-o", "one", "-q", *options, cwd=tmp_path, COLUMNS="400")
        assert result.returncode == 2
        return result.stderr.splitlines()[-1]  # after what -q keeps: that these are few rows

    assert says("--base", str(small), "--method", "pissa", "--rank", "64") == (
        "error: --rank 64: --method pissa takes singular directions, and a layer of small-bert has 32 of them."
    )
    assert says("--method", "full", "--rank", "4") == "error: --rank: --method full trains no adapters; leave it out."
    assert says("--base", str(small), "--targets", "q_proj").startswith(
        "error: --targets q_proj: the blocks of small-bert have no such layers; theirs are 'dense', 'key', 'query', 'value'."
    )
    assert says("--base", str(small), "--max-tokens", "4000") == (
        "error: --max-tokens 4000: small-bert has positions for 512; choose at most that many."
    )
    assert "--method adapter: one of 'lora', 'rslora', 'dora', 'pissa', 'full' or 'head'" in says("--method", "adapter")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config.json": None}, "has no config.json, so it is not a model; it holds 'model.safetensors', 'tokenizer.json'"),
        ({"config.json": b"{"}, "is not JSON"),
        ({"config.json": b'{"model_type": "resnet"}'}, "is of the architecture 'resnet'; those known here are albert, bert, "),
        ({"model.safetensors": None, "pytorch_model.bin": b"code"}, "has no model.safetensors, and pickled weights, which can run code,"),
        ({"model.safetensors": b"no weights"}, "cannot be loaded"),
        ({"tokenizer.json": b"{}"}, "no tokenizer can be made of what"),
    ],
)
def test_a_folder_that_is_no_model_gets_a_sentence(tmp_path: Path, change: dict[str, bytes | None], sentence: str) -> None:
    folder = save_base("bert", tmp_path / "base")
    for name, content in change.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    with pytest.raises(BackboneError, match=sentence):
        found = find_base(str(folder))
        assert found.tokenizer
        found.load()


def test_weights_that_are_not_all_there_and_another_models_tokenizer_are_told(tmp_path: Path) -> None:
    folder = save_base("bert", tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(BackboneError, match=r"lack 16 tensors that its config.json asks for \('encoder.layer.2"):
        find_base(str(folder)).load()
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    with pytest.raises(BackboneError, match="tokens and its model knows 20; they are not of one model"):
        assert find_base(str(folder)).tokenizer


def test_every_shipped_recipe_names_a_base_that_is_known_and_is_shown(tmp_path: Path) -> None:
    from catcli.models.bases import HUB_NAMES

    there = shipped_recipes()
    assert {"gpt2-lora", "bert-lora", "distilroberta-lora", "roberta-lora", "albert-lora", "t5-lora", "gpt2-full"} <= set(there)
    assert all(recipe.base in HUB_NAMES and recipe.about for recipe in there.values())
    study = there["distilroberta-lora"]
    assert (study.rank, study.alpha, study.dropout, study.max_tokens) == (8, 32, 0.1, 128)
    shown = catcli("recipes", cwd=tmp_path, check=True).stdout
    assert all(name in shown for name in there)
    (tmp_path / "mine.json").write_text(catcli("recipes", "t5-lora", cwd=tmp_path, check=True).stdout)
    assert Recipe.load(str(tmp_path / "mine.json")) == there["t5-lora"]
    assert catcli("recipes", "t5-lore", cwd=tmp_path).stderr.startswith("error: there is no recipe 't5-lore' (did you mean 't5-lora'?)")


def test_a_shipped_recipe_is_run_by_its_name_with_options_beside_it(shop: Shop, small: Path, tmp_path: Path) -> None:
    options = ["--recipe", "bert-lora", "--base", str(small), "--epochs", "1", "--no-refit", "--device", "cpu", "-q"]
    catcli("fit", shop.products, *options, "-o", "one", cwd=tmp_path, check=True)
    told = json.loads((tmp_path / "one" / "recipe.json").read_text())
    assert (told["rank"], told["alpha"], told["base"]) == (8, 32, str(small))
    assert told["max_tokens"] <= 64  # what suits the recipe's base is chosen again for another


def keep_weights_beside_the_model(monkeypatch: pytest.MonkeyPatch) -> str:
    """As is done above 2 GiB; returns the name of the file that gets them."""
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")  # Optimum's exporter
    monkeypatch.setattr(exporters, "MAX_INLINE_BYTES", 0)  # torch's
    return "model.onnx_data" if exporters.has_optimum() else "model.onnx.data"


def test_weights_above_two_gigabytes_stand_beside_the_model(
    shop: Shop, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = keep_weights_beside_the_model(monkeypatch)
    monkeypatch.setattr(parity, "MIN_AGREEMENT", 0.0)
    monkeypatch.setattr(parity, "MIN_SPEEDUP", 0.0)
    made = fitted(shop, tmp_path / "one", base=str(small))
    served = made.adapter.manifest.variants
    assert served["fp32"].data == (name,)
    assert len(served["int8"].data) == 1
    assert {*served["fp32"].data, *served["int8"].data} <= set(made.adapter.manifest.files)
    assert Labeler(made.adapter, "cpu", "fp32").label(["a mug"]).classes.shape == (1, 1)
    beside = tmp_path / "one" / name
    beside.write_bytes(b"\0" + beside.read_bytes()[1:])
    with pytest.raises(AdapterError, match=f"{name} has changed since it was written"):
        Labeler(load_adapter(tmp_path / "one"), "cpu", "fp32")


@pytest.mark.parametrize("has_optimum", [True, False])
def test_reduced_models_of_large_ones_have_their_weights_beside_them_too(
    small: Path, tmp_path: Path, has_optimum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_optimum and not exporters.has_optimum():
        pytest.skip("Optimum's exporter cannot be imported here")
    monkeypatch.setattr(exporters, "has_optimum", lambda: has_optimum)
    name = keep_weights_beside_the_model(monkeypatch)
    classifier = Classifier(find_base(str(small)).load(), 3).eval()
    to_onnx(classifier, tmp_path / "model.onnx")
    assert external_weight_files(tmp_path / "model.onnx") == (name,)
    feeds = {"input_ids": np.array([[2, 5, 6, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    whole = Session(tmp_path / "model.onnx", "cpu")._session.run(["logits"], feeds)[0]
    for name, reduce in (("int8", to_int8), ("fp16", to_fp16)):
        file = tmp_path / name / "model.onnx"
        file.parent.mkdir()
        reduce(tmp_path / "model.onnx", file)
        assert external_weight_files(file)
        assert np.abs(Session(file, "cpu")._session.run(["logits"], feeds)[0] - whole).max() < 0.1


# --- imbalance -----------------------------------------------------------------------------------------------------------------------

SHARES = np.array([0.7, 0.2, 0.1])
CPU = torch.device("cpu")


def losses_of(balance: Balance, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return make_row_loss(balance, SHARES, CPU)(logits, truth)


def test_each_loss_is_its_formula() -> None:
    logits, truth = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.3, 0.2]]), torch.tensor([0, 2])
    logs = torch.log_softmax(logits, 1)
    plain = -logs[[0, 1], truth]
    assert torch.allclose(losses_of("none", logits, truth), plain)
    assert torch.allclose(losses_of("weights", logits, truth), plain * torch.from_numpy(class_weights(SHARES))[truth])
    assert torch.allclose(losses_of("focal", logits, truth), plain * (1 - logs.exp()[[0, 1], truth]) ** 2)
    moved = torch.log_softmax(logits + torch.tensor(np.log(SHARES), dtype=torch.float32), 1)
    assert torch.allclose(losses_of("logit-adjust", logits, truth), -moved[[0, 1], truth])


def test_class_weights_are_inverse_to_the_root_of_the_share_and_one_on_average_over_the_rows() -> None:
    weights = class_weights(SHARES)
    assert float(SHARES @ weights) == pytest.approx(1.0)
    assert weights[2] / weights[0] == pytest.approx(np.sqrt(7.0))


def test_a_model_takes_the_shares_that_its_balance_left_it() -> None:
    assert np.allclose(implied_class_shares("focal", SHARES), SHARES)
    assert np.allclose(implied_class_shares("weights", SHARES), SHARES * class_weights(SHARES))
    assert np.allclose(implied_class_shares("logit-adjust", SHARES), 1 / 3)


def uneven() -> Examples:
    """Forty mugs, four bowls, and two rows of the one that look like the other."""
    texts = [f"blue mug {row}" for row in range(40)] + [f"red bowl {row}" for row in range(4)] + ["red bowl x", "red bowl y"]
    return Examples.of(texts, np.array([0] * 40 + [1] * 4 + [0] * 2))


def test_rows_of_rare_categories_count_more_by_weights() -> None:
    weights = balance_weights(uneven(), 2, "weights", 0).weights
    assert weights[40] / weights[0] == pytest.approx(np.sqrt(42 / 4), rel=1e-5)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)


def test_rows_that_others_do_not_explain_count_more_by_focal_loss() -> None:
    weights = balance_weights(uneven(), 2, "focal", 0).weights
    assert weights[-2:].min() > 3 * weights[:40].mean()
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)


def test_without_a_balance_or_with_adjusted_logits_rows_count_as_they_did() -> None:
    rows = uneven()
    assert balance_weights(rows, 2, "none", 0) is rows
    assert balance_weights(rows, 2, "logit-adjust", 0) is rows


def test_adjusted_logits_are_those_of_a_model_of_even_categories() -> None:
    shares = class_shares(np.array([0] * 9 + [1]), np.ones(10, np.float32), 2)
    logits = np.log(shares) / 2.0 + np.array([[0.0, 0.0]])  # at scale 2 they say the shares and nothing else
    assert np.ptp(logits + logit_adjustment(shares, 2.0)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("balance", get_args(Balance))
def test_every_balance_is_fitted(shop: Shop, small: Path, tmp_path: Path, balance: Balance) -> None:
    made = fitted(shop, tmp_path / "one", base=str(small), balance=balance)
    assert made.metrics.linear.macro_f1.value > 0.8  # of 22 test rows
    assert json.loads((tmp_path / "one" / "recipe.json").read_text())["balance"] == balance


def test_the_table_of_small_bases_has_the_published_names() -> None:
    from catcli.models.bases import HUB_NAMES

    assert set(HUB_NAMES) <= set(CONFIGS)


def test_a_flag_of_adapters_beside_a_recipe_that_trains_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--alpha: --method head trains no adapters"):
        Recipe(method="head").but({"alpha": 8})
