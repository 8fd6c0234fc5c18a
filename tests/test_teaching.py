"""A teacher beside the labels: what a row costs, which texts are taken, what a pupil learns, and students with fewer blocks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import SHELVES, Shop, catcli, fit
from scipy.special import log_softmax, softmax

from catcli.adapter.store import find_adapter
from catcli.arrays import FloatArray
from catcli.config import Recipe
from catcli.data.dataset.categories import Categories
from catcli.data.dataset.examples import UNLABELED, Examples
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.split import product_keys
from catcli.data.dataset.text import row_texts
from catcli.data.dataset.unlabeled import sample_unlabeled
from catcli.data.io.source import open_source
from catcli.errors import AdapterError, ProductsError, UsageError
from catcli.inference.labeler import Labeler
from catcli.models.bases import MINILM, find_base
from catcli.models.losses import TEACHER_TEMPERATURE, TEACHER_WEIGHT, distillation_loss, log_prior, soften
from catcli.training.fit import FitResult
from catcli.training.loop import classifier_logits, train_classifier
from catcli.training.task import TrainingTask
from catcli.training.teacher import Teacher

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)


def logits(rows: int, classes: int = 5) -> FloatArray:
    return RANDOM.normal(0, 2, (rows, classes)).astype(np.float32)


# --- what a row costs ----------------------------------------------------------------------------------------------------------------


def test_a_teachers_probabilities_are_softened_by_the_temperature() -> None:
    scores = logits(4)
    expected = softmax(log_softmax(scores, 1) / TEACHER_TEMPERATURE, 1)
    assert np.abs(soften(softmax(scores, 1).astype(np.float32)) - expected).max() < 1e-3
    # Categories that the teacher's pupil does not have are left out, and what is left adds up to 1; nothing stays nothing.
    some = softmax(scores, 1)[:, :2].astype(np.float32)
    assert np.abs(soften(some).sum(1) - 1).max() < 2e-3
    assert soften(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_each_row_is_held_against_its_own_target() -> None:
    """The published script of KD-LoRA takes one teacher row for a whole batch; then two rows of these would not cost what they cost."""
    mine, its = logits(6), softmax(logits(6) / TEACHER_TEMPERATURE, 1)
    own = np.arange(6, dtype=np.float32)
    labeled, known = np.array([1, 1, 1, 1, 0, 0], bool), np.array([1, 1, 1, 0, 1, 0], bool)
    targets = (its * known[:, None]).astype(np.float32)
    found = distillation_loss(*map(torch.from_numpy, (own, labeled, mine, targets))).numpy()
    for row in range(6):
        apart = TEACHER_TEMPERATURE**2 * float((its[row] * (np.log(its[row]) - log_softmax(mine[row] / TEACHER_TEMPERATURE))).sum())
        by_label = own[row] if labeled[row] else 0.0
        assert found[row] == pytest.approx((1 - TEACHER_WEIGHT) * by_label + TEACHER_WEIGHT * apart if known[row] else by_label, rel=1e-4)
    order = np.array([3, 0, 5, 1, 4, 2])
    again = distillation_loss(*map(torch.from_numpy, (own[order], labeled[order], mine[order], targets[order]))).numpy()
    assert again == pytest.approx(found[order])


def test_a_pupil_that_says_what_the_teacher_says_costs_nothing_more() -> None:
    mine = logits(3)
    targets = softmax(mine / TEACHER_TEMPERATURE, 1)
    own = torch.zeros(3)
    assert distillation_loss(own, own > 1, torch.from_numpy(mine), torch.from_numpy(targets)).abs().max() < 1e-5


def test_logit_adjustment_holds_the_teacher_against_what_its_loss_takes_for_a_distribution() -> None:
    shares = np.array([0.7, 0.2, 0.1])
    assert log_prior("logit-adjust", shares, torch.device("cpu")).numpy() == pytest.approx(np.log(shares))
    assert log_prior("none", shares, torch.device("cpu")).tolist() == [0, 0, 0]


def test_the_new_head_learns_from_a_teacher_alone(tmp_path: Path) -> None:
    """The published script freezes it. Here every label is hidden but one of each class, and the head still moves to the teacher's word."""
    from catcli.inference.tokens import Tokenizer
    from catcli.training.base_features import compute_base_features
    from catcli.training.checkpoint import Checkpoint
    from catcli.training.encoder_training import TrainingInput

    texts = [f"{color} {thing}" for thing in ("mug", "drill") for color in ("red", "blue", "green", "steel", "small", "large")]
    truth = np.repeat([0, 1], 6)
    classes = np.full(12, UNLABELED)
    classes[[0, 6]] = truth[[0, 6]]
    upside_down = soften(np.eye(2, dtype=np.float32)[1 - truth] * 0.98 + 0.01)  # so that only the teacher can have taught it
    base = MINILM.used_by(Recipe())
    tokenizer = Tokenizer(base.tokenizer, 16, base.pad_id)
    reading = compute_base_features(base, tokenizer, texts, torch.device("cpu"), False, lambda *_: None)
    inputs = TrainingInput(Examples(texts, classes, np.ones(12, np.float32)), reading, upside_down, np.arange(12), "")
    recipe = Recipe(device="cpu", epochs=8, lr=5e-3, batch_size=4, method="head")
    task: TrainingTask = inputs.task(np.arange(12), np.arange(0), 2)
    assert task.labeled.tolist() == [0, 6]
    trained = train_classifier(task, base, recipe, Checkpoint(tmp_path / "state", ""))
    found = classifier_logits(trained, task, np.array([1, 2, 3, 7, 8, 9]))
    assert found.argmax(1).tolist() == [1, 1, 1, 0, 0, 0]


# --- which texts are taken -----------------------------------------------------------------------------------------------------------


def labeled(texts: list[str], groups: list[str] | None = None) -> LabeledRows:
    group = None if groups is None else pl.Series(groups)
    classes = np.arange(len(texts)) % 2
    return LabeledRows(texts, classes, product_keys(texts, group), Categories(("a", "b")), len(texts), 0)


def test_a_draw_of_unlabeled_texts_has_no_product_of_the_labeled_rows(tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    rows = [("Red mug!", "g1"), ("blue mug", "g2"), ("blue mug", "g2"), ("", "g3"), ("red  MUG", "g9"), ("lamp", "g7"), ("drill", "g8")]
    file.write_text("Title,group\n" + "".join(f"{text},{group}\n" for text, group in rows))
    known = labeled(["red mug", "tent"], ["g1", "g7"])
    found = sample_unlabeled(open_source([str(file)]), ["title"], (), "group", known, 0)
    assert (sorted(found.texts), found.read, found.known) == (["blue mug", "drill"], 7, 3)
    # One row of a labeled product bars its text, wherever it stands.
    file.write_text("title,group\nlamp,g2\nlamp,g7\ndrill,g8\n")
    assert sample_unlabeled(open_source([str(file)]), ["title"], (), "group", known, 0).texts == ["drill"]
    file.write_text("title,group\nlamp,g7\nlamp,g2\ndrill,g8\n")
    assert sample_unlabeled(open_source([str(file)]), ["title"], (), "group", known, 0).texts == ["drill"]


def test_a_draw_hangs_neither_on_the_order_nor_on_how_often_a_text_comes(tmp_path: Path) -> None:
    texts = [f"thing {number}" for number in range(300)]
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text("title\n" + "\n".join(texts) + "\n")
    other.write_text("title\n" + "\n".join([*reversed(texts), *texts[:50] * 20]) + "\n")
    nothing = labeled(["mug", "tent"])
    found = [sample_unlabeled(open_source([str(file)]), ["title"], (), None, nothing, 0, limit=40).texts for file in (one, other)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 40
    assert found[0] != sample_unlabeled(open_source([str(one)]), ["title"], (), None, nothing, 1, limit=40).texts
    assert found[0][:20] == sample_unlabeled(open_source([str(one)]), ["title"], (), None, nothing, 0, limit=20).texts


@pytest.mark.parametrize(("header", "said"), [("name", "has no column 'title'"), ("title", "no text that the labeled rows do not have")])
def test_rows_that_cannot_be_learned_from_are_told(tmp_path: Path, header: str, said: str) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text(f"{header}\nRED mug\n")
    with pytest.raises(ProductsError, match=said):
        sample_unlabeled(open_source([str(file)]), ["title"], (), None, labeled(["red mug", "tent"]), 0)


# --- a fit with a teacher ------------------------------------------------------------------------------------------------------------


def taught(shop: Shop, folder: Path, **options: object) -> FitResult:
    recipe = Recipe.make(**{"epochs": 2, "max_tokens": 24, "device": "cpu", "refit": False, "teacher": shop.adapter, **options})
    return fit([str(shop.products)], recipe=recipe, output=folder)


def test_a_pupil_learns_from_unlabeled_rows_what_its_teacher_says_of_them(shop: Shop, tmp_path: Path) -> None:
    made = taught(shop, tmp_path / "pupil", unlabeled=str(shop.catalog))
    assert made.metrics.training.unlabeled_rows > 200
    recipe = Recipe.load(str(tmp_path / "pupil" / "recipe.json"))
    assert (recipe.teacher, recipe.unlabeled) == (shop.adapter, str(shop.catalog))
    texts = row_texts(pl.read_csv(shop.catalog, infer_schema=False), ("title", "brand", "description"))

    def apart(folder: str) -> float:
        """How far a model alone is from the teacher's blend on rows of the catalog, in nats."""
        said = Labeler(find_adapter(folder), "cpu").logits(texts).lora
        teacher = Labeler(find_adapter(shop.adapter), "cpu").probabilities(texts)
        return float((teacher * (np.log(np.maximum(teacher, 1e-9)) - log_softmax(said, 1))).sum(1).mean())

    fit([str(shop.products)], recipe=Recipe(epochs=2, max_tokens=24, device="cpu", refit=False), output=tmp_path / "alone")
    assert apart(str(tmp_path / "pupil")) < 0.8 * apart(str(tmp_path / "alone"))
    again = taught(shop, tmp_path / "again", unlabeled=str(shop.catalog))
    files = ("adapter_model.safetensors", "head.safetensors")
    assert all(again.adapter.manifest.files[name] == made.adapter.manifest.files[name] for name in files)


def test_a_teacher_that_may_have_seen_the_rows_that_score_is_told(shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taught(shop, tmp_path / "clean", epochs=1)
    assert "may have learned" not in caplog.text
    taught(shop, tmp_path / "other", epochs=1, split_seed=1)
    assert "the teacher held other rows back, so it may have been trained on" in caplog.text
    fit([str(shop.products)], recipe=Recipe(epochs=1, max_tokens=16, device="cpu"), output=tmp_path / "refitted")
    taught(shop, tmp_path / "pupil", epochs=1, teacher=str(tmp_path / "refitted"))
    assert "the teacher was refitted on all of its rows, so it may have been trained on" in caplog.text


def test_a_teacher_is_seen_through_the_pupils_categories(shop: Shop) -> None:
    names = ["Another shelf", SHELVES[1], SHELVES[0]]
    texts = ["espresso beans 250 g", "shampoo for dry hair", "a thing of another shelf"]
    found = Teacher(shop.adapter, names, "cpu").targets(Examples(texts, np.array([UNLABELED, 1, 0]), np.ones(3, np.float32)))
    assert found[:, 0].tolist() == [0, 0, 0]
    assert np.abs(found[:2].sum(1) - 1).max() < 2e-3
    assert found[:2].argmax(1).tolist() == [2, 1]
    assert found[2].tolist() == [0, 0, 0]  # a row of a category that it does not know: the label alone says what it is
    with pytest.raises(AdapterError, match="knows none of the 1 categories of the labeled rows"):
        Teacher(shop.adapter, ["Another shelf"], "cpu")


def test_options_of_a_teacher_that_cannot_be_are_told(shop: Shop, tmp_path: Path) -> None:
    told = catcli("fit", shop.products, "--teacher", "nobody", cwd=tmp_path)
    assert told.returncode == 1
    assert "there is no adapter 'nobody'" in told.stderr


# --- students with fewer blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_student_has_some_of_the_blocks_and_comes_back_as_it_was(shop: Shop, tmp_path: Path, method: str) -> None:
    made = taught(shop, tmp_path / "student", base="minilm-3", method=method, epochs=1)
    assert made.adapter.manifest.base.name == "minilm-3"
    assert max(form.largest_difference for form in made.metrics.parity if form.form != "ONNX int8") < 1e-4
    assert made.metrics.training.total < shop.fitted.metrics.training.total * 0.8
    sizes = [(folder / "model.onnx").stat().st_size for folder in (tmp_path / "student", Path(shop.adapter))]
    assert sizes[0] < 0.8 * sizes[1]
    labeled_now = catcli("predict", shop.catalog, "-o", "out.csv", "--adapter", "student", cwd=tmp_path, check=True)
    assert "300 rows labeled" in labeled_now.stderr


def test_the_blocks_are_spread_evenly_and_are_the_published_ones() -> None:
    small, whole = find_base("minilm-3"), MINILM.load()
    assert small.kept == (0, 2, 4)
    model = small.load()
    assert model.config.num_hidden_layers == len(small.blocks_of(model).modules) == 3
    for mine, published in zip(small.blocks_of(model).modules, small.kept, strict=True):
        its = MINILM.blocks_of(whole).modules[published]
        assert all(torch.equal(*pair) for pair in zip(mine.parameters(), its.parameters(), strict=True))


@pytest.mark.parametrize("name", ["minilm-6", "minilm-0"])
def test_a_number_of_blocks_that_cannot_be_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="write minilm-1 to minilm-5"):
        find_base(name)


def test_a_student_is_loaded_by_hand_as_its_card_says(shop: Shop, tmp_path: Path) -> None:
    """PEFT alone would put the adapters into the published model's lowest blocks."""
    made = taught(shop, tmp_path / "student", base="minilm-3", epochs=1)
    card = (tmp_path / "student" / "README.md").read_text()
    assert "blocks 0, 2 and 4" in card
    code = f"""
import torch
from peft import PeftModel
from transformers import AutoModel
model = AutoModel.from_pretrained({str(MINILM.folder)!r}).eval()
model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[number] for number in (0, 2, 4))
model = PeftModel.from_pretrained(model, {str(made.adapter.folder)!r}).eval()
ids = torch.tensor([[101, 2417, 14757, 102]])
print(float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sum()))
"""
    by_hand = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    from catcli.models.methods import load_model

    base = find_base("minilm-3").used_by(Recipe())
    ids = torch.tensor([[101, 2417, 14757, 102]])
    ours = load_model(base, "lora", made.adapter.folder, len(SHELVES)).eval().backbone
    with torch.inference_mode():
        expected = float(ours(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sum())
    assert float(by_hand.stdout) == pytest.approx(expected, abs=1e-3)
