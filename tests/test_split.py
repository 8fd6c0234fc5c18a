"""Rows by product, stratified, steady."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catcli.data.dataset.split import product_keys, split_rows, text_key

SHARES = (80, 10, 10)


def test_every_category_with_enough_products_is_in_all_parts() -> None:
    classes = np.repeat(np.arange(3), [100, 10, 4])
    parts = split_rows([f"product {row}" for row in range(len(classes))], classes, SHARES, 0)
    assert set(classes[parts.train]) == {0, 1, 2}
    assert {0, 1} <= set(classes[parts.validation]) & set(classes[parts.test])
    assert (parts.rare, parts.fewest) == ((2,), 10)
    assert [len(rows) for rows in (parts.train, parts.validation, parts.test)] == [80 + 8 + 4, 11, 11]


def test_small_categories_are_no_larger_a_part_of_the_rows_that_score_than_of_all() -> None:
    sizes = np.concatenate((np.full(1000, 4), np.full(500, 8), np.full(500, 100)))
    classes = np.repeat(np.arange(len(sizes)), sizes)
    parts = split_rows([f"product {row}" for row in range(len(classes))], classes, SHARES, 0)
    small = {name: float((classes[rows] < 1500).mean()) for name, rows in (("test", parts.test), ("validation", parts.validation))}
    share = float((classes < 1500).mean())
    assert small == {name: pytest.approx(share, abs=0.005) for name in small}


def test_where_all_categories_are_small_some_rows_score_all_the_same() -> None:
    classes = np.repeat(np.arange(20), 8)
    parts = split_rows([f"product {row}" for row in range(160)], classes, SHARES, 0)
    assert (len(parts.test), len(parts.validation), len(parts.rare)) == (16, 16, 20)


def test_groups_that_have_a_text_in_common_are_one_product() -> None:
    texts = ["Blue mug", "blue MUG!", "Red mug", "red mug", "Drill", "", "", "Saw"]
    groups = pl.Series(["b", "a", "a", "c", "d", "e", "f", None])
    keys = product_keys(texts, groups)
    assert keys == ["group a"] * 4 + ["group d", "group e", "group f", "saw"]
    assert product_keys(["blue mug", "Blue mug", "x"], pl.Series([None, "g", "h"])) == ["blue mug", "blue mug", "group h"]


def test_rare_categories_are_held_out_together_and_in_proportion() -> None:
    classes = np.concatenate((np.zeros(200, np.int64), np.repeat(np.arange(1, 61), np.tile([1, 2, 4], 20))))
    parts = split_rows([f"product {row}" for row in range(len(classes))], classes, SHARES, 0)
    assert len(parts.rare) == 60
    for held in (parts.validation, parts.test):
        rare = classes[held][classes[held] > 0]
        assert len(rare) == 14  # a tenth of 140
        assert (np.bincount(classes)[rare] > 1).all()  # the only product of a category trains
    assert set(classes[parts.train]) == set(classes)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=150),
    st.sampled_from([(80, 10, 10), (10, 45, 45), (1, 50, 49), (34, 33, 33)]),
    st.integers(0, 5),
)
def test_parts_share_no_product_and_lose_no_row(rows: list[tuple[int, int]], shares: tuple[int, int, int], seed: int) -> None:
    keys, classes = [str(key) for key, _ in rows], np.array([number for _, number in rows])
    parts = split_rows(keys, classes, shares, seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(rows)))
    owners = [{keys[row] for row in part} for part in (parts.train, parts.validation, parts.test)]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]
    assert len(parts.train)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=200), st.integers(0, 3))
def test_every_category_trains(rows: list[tuple[int, int]], seed: int) -> None:
    keys, classes = [str(key) for key, _ in rows], np.array([number for _, number in rows])
    parts = split_rows(keys, classes, SHARES, seed)
    assert set(classes[parts.train]) == set(classes)


def test_the_split_hangs_on_its_own_seed_alone() -> None:
    keys, classes = [f"p{row}" for row in range(200)], np.zeros(200, np.int64)
    first, again, other = (split_rows(keys, classes, SHARES, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_new_rows_move_few_old_ones() -> None:
    keys = [f"p{row}" for row in range(1100)]
    before = split_rows(keys[:1000], np.zeros(1000, np.int64), SHARES, 0)
    after = split_rows(keys, np.zeros(1100, np.int64), SHARES, 0)
    assert len(set(before.test) - set(after.test)) <= 15


def test_texts_that_differ_by_case_and_punctuation_are_one_product() -> None:
    assert text_key('Mug, BLUE - 12"') == text_key("mug blue 12")


def test_of_very_many_rows_only_so_many_are_held_out() -> None:
    keys, classes = [f"p{row}" for row in range(6000)], np.arange(6000) % 3
    parts = split_rows(keys, classes, SHARES, 0, limit=150)
    assert (len(parts.validation), len(parts.test), len(parts.train)) == (150, 150, 5700)
    # The same products, only fewer of them.
    assert set(parts.test) <= set(split_rows(keys, classes, SHARES, 0).test)
