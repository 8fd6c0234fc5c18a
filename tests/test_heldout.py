"""What ``heldout.parquet`` keeps of the logits, and what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.special import log_softmax

from catcli.adapter.manifest import BlendWeights
from catcli.adapter.parquet import write_columns
from catcli.errors import AdapterError
from catcli.evaluation.blend import blend_logits
from catcli.evaluation.heldout import STORED_CLASSES, HeldOutRows

BLEND = BlendWeights(lora=0.5, linear=0.5)


def rows_of(classes: int, count: int = 400) -> tuple[HeldOutRows, list[str]]:
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes, count)
    lora, linear = random.normal(0, 1, (2, count, classes)).astype(np.float32)
    lora[np.arange(count), truth] += 9 * (random.random(count) < 0.7)
    linear[np.arange(count), truth] += 9 * (random.random(count) < 0.7)
    texts, parts = [f"text {row}" for row in range(count)], ["validation", "test"] * (count // 2)
    return HeldOutRows(texts, parts, np.arange(count, dtype=np.uint64), truth, lora, linear), [f"category {n}" for n in range(classes)]


@pytest.mark.parametrize("classes", [2, 20, 21, 500])
def test_labels_and_probabilities_are_those_that_were_saved(tmp_path: Path, classes: int) -> None:
    rows, names = rows_of(classes)
    rows.save(tmp_path / "heldout.parquet", names, BLEND)
    read = HeldOutRows.load(tmp_path / "heldout.parquet", names)
    assert (read.texts, read.parts, read.classes.tolist()) == (rows.texts, rows.parts, rows.classes.tolist())
    for before, after in ((rows.lora, read.lora), (rows.linear, read.linear)):
        assert (before.argmax(1) == after.argmax(1)).all()
        of_truth = (np.arange(len(before)), rows.classes)
        assert np.allclose(log_softmax(before, 1)[of_truth], log_softmax(after, 1)[of_truth], atol=5e-3)
        assert np.allclose(np.exp(log_softmax(before, 1)).max(1), np.exp(log_softmax(after, 1)).max(1), atol=2e-3)


def test_the_blend_s_labels_are_those_of_all_logits_with_many_uneven_categories(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    classes, count = 300, 1_500
    shares = 1 / np.arange(1, classes + 1)
    truth = random.choice(classes, count, p=shares / shares.sum())
    lora, linear = (random.normal(0, 1.2, (count, classes)) + 0.6 * np.log(shares) for _ in range(2))
    for logits in (lora, linear):
        logits[np.arange(count), truth] += random.normal(2, 1.5, count)
    blend = BlendWeights(lora=0.7, linear=1.1, offset=tuple((-0.9 * np.log(shares)).tolist()))
    _, names = rows_of(classes)
    rows = HeldOutRows(
        [str(row) for row in range(count)],
        ["validation", "test"] * (count // 2),
        np.arange(count, dtype=np.uint64),
        truth,
        lora.astype(np.float32),
        linear.astype(np.float32),
    )
    rows.save(tmp_path / "heldout.parquet", names, blend)
    read = HeldOutRows.load(tmp_path / "heldout.parquet", names)
    before, after = blend_logits(rows.lora, rows.linear, blend), blend_logits(read.lora, read.linear, blend)
    # Near ties apart, which float16 may turn.
    largest = np.sort(before, 1)[:, -2:]
    clear = largest[:, 1] - largest[:, 0] > 0.02
    assert clear.mean() > 0.95
    assert (before.argmax(1) == after.argmax(1))[clear].all()


def test_the_file_does_not_grow_with_the_categories(tmp_path: Path) -> None:
    rows, names = rows_of(5_000)
    rows.save(tmp_path / "heldout.parquet", names, BLEND)
    # Of each row numbers and two logits of so many categories, its text and other columns; all logits are 40,000 bytes.
    assert (tmp_path / "heldout.parquet").stat().st_size < len(rows.texts) * (8 * STORED_CLASSES + 100)


def test_logits_far_below_the_largest_are_kept_as_far_below(tmp_path: Path) -> None:
    rows, names = rows_of(3)
    rows.lora[0] = (0, -3e5, 5)
    rows.save(tmp_path / "heldout.parquet", names, BLEND)
    assert HeldOutRows.load(tmp_path / "heldout.parquet", names).lora[0].tolist() == [-5, pytest.approx(-60_000, rel=1e-3), 0]


def test_a_file_of_format_5_has_all_logits(tmp_path: Path) -> None:
    rows, names = rows_of(30)
    texts = {"text": rows.texts, "part": rows.parts, "category": [names[number] for number in rows.classes]}
    numbers: dict[str, npt.NDArray[Any]] = {"product": rows.products, "lora_logits": rows.lora, "linear_logits": rows.linear}
    write_columns(tmp_path / "heldout.parquet", texts, numbers)
    assert (HeldOutRows.load(tmp_path / "heldout.parquet", names).lora == rows.lora).all()


@pytest.mark.parametrize("number", [-1, 30])
def test_a_category_that_is_none_is_named(tmp_path: Path, number: int) -> None:
    rows, names = rows_of(30)
    file = tmp_path / "heldout.parquet"
    rows.save(file, names, BLEND)
    wrong = pl.Series([[number] * STORED_CLASSES] * len(rows.texts), dtype=pl.Array(pl.Int32, STORED_CLASSES))
    pl.read_parquet(file).with_columns(classes=wrong).write_parquet(file)
    with pytest.raises(AdapterError, match="rows of other categories or parts than its adapter"):
        HeldOutRows.load(file, names)


def test_more_logits_than_a_fit_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, names = rows_of(30)
    rows.save(tmp_path / "heldout.parquet", names, BLEND)
    monkeypatch.setattr("catcli.evaluation.heldout.MAX_LOGITS", 30 * 399)
    with pytest.raises(AdapterError, match="has 400 rows, and no adapter's has more than 399"):
        HeldOutRows.load(tmp_path / "heldout.parquet", names)
