"""Which columns play which role, and how a row becomes one text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl
import pytest

from catcli.data.dataset.columns import choose_columns, leaks_label
from catcli.data.dataset.split import product_keys
from catcli.data.dataset.text import price_words, row_texts
from catcli.errors import ProductsError

ROWS = 60
NAMES = ("Home > Mugs", "Home > Lamps", "Beauty > Soap")


def shop(**columns: Sequence[object]) -> pl.DataFrame:
    labels = [NAMES[row % 3] for row in range(ROWS)]
    titles = [f"{('mug', 'lamp', 'soap')[row % 3]} number {row} in blue" for row in range(ROWS)]
    return pl.DataFrame({"title": titles, "category": labels, **columns}, strict=False)


def test_columns_are_joined_in_order_without_empty_cells() -> None:
    frame = pl.DataFrame(
        {
            "title": ["  Blue\tmug ", None, ""],
            "features": [["big", None, "blue"], [], None],
            "price": [1.5, None, 3.0],
            "since": [date(2026, 1, 2), None, None],
        }
    )
    assert row_texts(frame, ["title", "features", "price", "since"]) == ["Blue mug big blue 1.5 2026-01-02", "", "3.0"]


def test_without_a_title_the_maker_comes_last() -> None:
    frame = shop(brand_owner=["Acme", "Zeta"] * (ROWS // 2), ingredients=["water, salt"] * ROWS).drop("title")
    assert choose_columns(frame, None, (), None, "shop.csv").text == ("ingredients", "brand_owner")


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("999", "price500"),
        ("1000", "price1000"),
        ("1,299.00", "price1000"),
        ("1.299,00 €", "price1000"),
        ("₹ 2 499", "price2000"),
        ("£4.99 - £9.99", "price2"),
        ("0.79", "price0"),
        ("0.123", "price0"),
        ("8.403361", "price5"),
        ("19.99 24.99", "price10"),
        ("1\u00a0299,00 €", "price1000"),
        ("CHF 1’299.00", "price1000"),
        ("1,234,567", "price1000000"),
        ("5", "price5"),
        ("49.999", "price20000"),  # three digits behind the mark are thousands
        ("on request", None),
        ("", None),
        (None, None),
    ],
)
def test_a_price_is_the_word_for_its_band(cell: str | None, word: str | None) -> None:
    assert price_words(pl.Series([cell], dtype=pl.String)).to_list() == [word]


def test_prices_that_are_numbers_have_the_same_bands() -> None:
    assert price_words(pl.Series([999.0, 0.5, None, 20.0, 1e6])).to_list() == ["price500", "price0", None, "price20", "price1000000"]


def test_texts_have_bands_only_where_they_were_asked_for() -> None:
    frame = pl.DataFrame({"title": ["Mug"], "price": ["12.50"]})
    assert row_texts(frame, ["title", "price"], ["price"]) == ["Mug price10"]
    assert row_texts(frame, ["title", "price"]) == ["Mug 12.50"]


@pytest.mark.parametrize("name", ["retail_price_inr", "Price", "listPrice", "preis"])
def test_a_column_of_prices_is_told_by_its_name_and_its_numbers(name: str) -> None:
    assert choose_columns(shop(**{name: [str(number) for number in range(ROWS)]}), None, ("title", name), None, "shop.csv").prices == (
        name,
    )
    assert choose_columns(shop(**{name: ["ask us"] * ROWS}), None, ("title", name), None, "shop.csv").prices == ()


def test_offers_of_one_product_at_several_prices_are_one_product() -> None:
    assert product_keys(["Blue Mug price5", "blue mug price20"], None) == ["blue mug", "blue mug"]


def test_the_label_and_the_text_are_found_and_the_title_comes_first() -> None:
    frame = shop(description=["a fine thing"] * ROWS, brand=["Acme", "Zeta"] * (ROWS // 2), price=list(range(ROWS)))
    found = choose_columns(frame, None, (), None, "shop.csv")
    assert (found.label, found.text, found.group) == ("category", ("title", "brand", "description"), None)


def test_the_schema_of_amazon_reviews_is_understood() -> None:
    frame = pl.DataFrame(
        {
            "main_category": ["All Beauty", "Grocery"] * 20,
            "title": [f"Thing {row}" for row in range(40)],
            "average_rating": [4.5] * 40,
            "features": [["soft", f"size {row}"] if row % 3 else [] for row in range(40)],
            "description": [[f"The story of {row}."] for row in range(40)],
            "images": [[{"large": "https://x"}]] * 40,
            "store": ["Acme", "Zeta"] * 20,
            "categories": [["Beauty", "Hair"], ["Grocery"]] * 20,
            "details": [{"Brand": "Acme"}] * 40,
            "parent_asin": [f"B{row // 2}" for row in range(40)],
        }
    )
    found = choose_columns(frame, None, (), None, "meta.jsonl")
    assert (found.label, found.text, found.group) == ("main_category", ("title", "features", "description"), "parent_asin")


@pytest.mark.parametrize(
    "give_away",
    [
        [row % 3 for row in range(ROWS)],
        [f"Shop / {NAMES[row % 3]}" for row in range(ROWS)],
        [NAMES[row % 3].upper() for row in range(ROWS)],
        [["Shop", *NAMES[row % 3].split(" > ")] for row in range(ROWS)],
    ],
    ids=["code", "breadcrumb", "other case", "list"],
)
def test_a_column_that_gives_the_label_away_is_left_out_and_named(give_away: list[object]) -> None:
    frame = shop(description_text=give_away)
    assert leaks_label(frame, "description_text", "category")
    found = choose_columns(frame, None, (), None, "shop.csv")
    assert found.text == ("title",)
    assert found.left_out == {"description_text": "it gives the label away"}


def test_a_title_that_names_its_category_gives_nothing_away() -> None:
    assert not leaks_label(shop(), "title", "category")


def test_two_equal_candidates_stop_the_run() -> None:
    frame = shop().rename({"category": "category_1"}).with_columns(category_2=pl.col("category_1"))
    with pytest.raises(
        ProductsError, match="'category_1', 'category_2' of shop.csv fit equally well as the category; choose one with --label"
    ):
        choose_columns(frame, None, (), None, "shop.csv")


def test_a_group_is_a_column_of_products_that_repeat() -> None:
    repeated = [f"p{row // 2}" for row in range(ROWS)]
    assert choose_columns(shop(product_id=repeated), None, (), None, "x").group == "product_id"
    assert choose_columns(shop(product_id=[f"p{row}" for row in range(ROWS)]), None, (), None, "x").group is None


def test_a_name_may_differ_by_case_blanks_and_punctuation() -> None:
    frame = shop().rename({"category": "Category Label"})
    assert choose_columns(frame, "category_label", ("TITLE",), None, "x").label == "Category Label"


@pytest.mark.parametrize(
    ("label", "text", "sentence"),
    [
        ("catgory", (), "--label 'catgory': shop.csv has no such column (did you mean 'category'?); its columns are 'title', 'category'."),
        (None, ("titel",), "--text 'titel': shop.csv has no such column (did you mean 'title'?); its columns are 'title', 'category'."),
        ("category", ("category",), "--text 'category' is the label itself; leave it out."),
    ],
)
def test_a_wrong_name_gets_a_sentence(label: str | None, text: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ProductsError) as raised:
        choose_columns(shop(), label, text, None, "shop.csv")
    assert str(raised.value) == sentence


def test_nothing_that_looks_like_a_category_gets_a_sentence() -> None:
    with pytest.raises(ProductsError, match="no column of shop.csv looks like the category by its name and content; say which it is with"):
        choose_columns(shop().drop("category"), None, (), None, "shop.csv")


def test_columns_of_odd_types_and_names_break_nothing() -> None:
    frame = shop(**{"*": ["x"] * ROWS, "^t.*$": ["y"] * ROWS}).with_columns(
        took=pl.duration(seconds=pl.int_range(ROWS)), product_id=pl.int_ranges(0, 2), nested=pl.lit([[1]])
    )
    found = choose_columns(frame, None, (), None, "x")
    assert (found.label, found.text, found.group) == ("category", ("title",), None)
    assert row_texts(frame, ["*", "^t.*$"])[0] == "x y"
    for options in ({"label": "took"}, {"text": ("nested",)}, {"group": "product_id"}):
        with pytest.raises(ProductsError, match="its cells are"):
            choose_columns(frame, **{"label": None, "text": (), "group": None, "source_name": "x", **options})  # type: ignore[arg-type]
