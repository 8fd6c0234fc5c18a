"""The linear model's features are scikit-learn's; the model comes back from disk as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from catcli.data.dataset.examples import Examples
from catcli.inference.ngrams import LinearModel, Ngrams, Vocabulary
from catcli.training.linear import fit_linear

TITLES = [
    'Samsung 55" QLED TV, 4K  (2019)',
    "samsung  tv wall-mount 55 inch",
    "a",
    "",
    "Crème brûlée torch — 250 ml",
    "ÇOCUK ayakkabısı İSTANBUL 37",
    "日本茶 緑茶 100g",
    "x x x x",
    "under_score snake_case",
    "emoji 🎁 gift",
]


def gram_matrices(training: Sequence[str], texts: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    theirs = sum((model.fit(training).transform(texts) @ model.transform(training).T).toarray() for model in (words, letters))
    ngrams = Ngrams.fit(training)
    return (ngrams.transform(texts) @ ngrams.transform(training).T).toarray(), theirs


def test_products_of_texts_are_those_of_scikit_learn() -> None:
    ours, theirs = gram_matrices([*TITLES, *TITLES[:3]], [*TITLES, "unseen words only", "tv"])
    # An emoji is a word character here and none there; no pair of these texts shares one.
    assert np.abs(ours - theirs).max() < 1e-5


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=25), min_size=1, max_size=6))
def test_any_texts_give_the_products_that_scikit_learn_gives(texts: list[str]) -> None:
    ours, theirs = gram_matrices([*texts, "some words"], texts)
    assert np.abs(ours - theirs).max() < 1e-4


def test_order_and_anagrams_are_told_apart() -> None:
    rows = Ngrams.fit(["red blue", "blue red", "der elbu"]).transform(["red blue", "blue red", "der elbu"]).toarray()
    assert len({tuple(row) for row in rows}) == 3


def test_a_batch_gives_what_its_texts_give_alone() -> None:
    ngrams = Ngrams.fit(TITLES)
    together = ngrams.transform(TITLES).toarray()
    assert np.array_equal(together, np.concatenate([ngrams.transform([title]).toarray() for title in TITLES]))


@pytest.mark.parametrize("present", [(0, 1), (1, 3), (0, 1, 2, 3)])
def test_a_saved_model_gives_the_same_logits_and_never_favors_a_class_without_rows(tmp_path: Path, present: tuple[int, ...]) -> None:
    texts = [f"{('mug', 'drill', 'soap', 'lamp')[number]} no {row}" for row in range(10) for number in present]
    classes = np.array([number for _ in range(10) for number in present])
    model = fit_linear(Examples.of(texts, classes), 4, seed=0)
    model.save(tmp_path / "linear.safetensors")
    logits = LinearModel.load(tmp_path / "linear.safetensors").logits(["a mug", "", "drill"])
    assert np.allclose(logits, model.logits(["a mug", "", "drill"]), atol=1e-6)
    assert set(logits.argmax(1)) <= set(present)
    assert (model.logits(texts).argmax(1) == classes).all()


@pytest.mark.parametrize("spread", ["even", "one prefix"])
def test_hashes_are_found_as_a_binary_search_finds_them(spread: str) -> None:
    random = np.random.default_rng(0)
    hashes = np.unique(random.integers(0, 2**64, 5_000, dtype=np.uint64))
    if spread == "one prefix":  # as no vocabulary has them, and a crafted one may
        hashes >>= np.uint64(40)
        hashes = np.unique(hashes)
    vocabulary = Vocabulary(hashes, np.ones(len(hashes), np.float32))
    sought = random.permutation(np.concatenate((hashes[::2], hashes + np.uint64(1), random.integers(0, 2**64, 500, dtype=np.uint64))))
    places, columns = vocabulary.find(sought)
    assert places.tolist() == np.flatnonzero(np.isin(sought, hashes)).tolist()
    assert (hashes[columns] == sought[places]).all()


def test_dense_and_sparse_weights_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{thing} no {row}" for row in range(10) for thing in ("mug", "drill", "soap")]
    model = fit_linear(Examples.of(texts, np.arange(30) % 3), 3, seed=0)
    dense = model.logits([*texts, "", "another mug"])
    monkeypatch.setattr("catcli.inference.ngrams.MAX_DENSE_BYTES", 0)
    again = LinearModel(model.ngrams, model.weights, model.bias)
    assert np.array_equal(again.logits([*texts, "", "another mug"]), dense)
