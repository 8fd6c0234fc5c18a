"""The rows to learn from: Amazon Reviews 2023 as it is published, and even draws of files that are never held in memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import catcli

from catcli.adapter.folder import load_adapter
from catcli.data.dataset import gather as module
from catcli.data.dataset.gather import gather_rows
from catcli.data.io.batch import Batch
from catcli.data.io.source import Source, open_source

KINDS = {
    "All Beauty": ("rose hair shampoo", "hand cream", "lip balm", "face mask"),
    "Grocery": ("roasted coffee beans", "green tea", "olive oil", "dark chocolate"),
    "Industrial & Scientific": ("cordless drill", "steel bolt", "cable ties", "safety goggles"),
}
ADJECTIVES = ("fresh", "fine", "large", "small", "classic", "mild")


def item(number: int, category: str | None) -> dict[str, Any]:
    """A line of a ``meta_*.jsonl`` file in the published schema."""
    random = np.random.default_rng(number)
    kind = KINDS[category or "Grocery"][number % 4]
    return {
        "main_category": category,
        "title": f"{ADJECTIVES[number % 6].title()} {kind} No {number}",
        "average_rating": round(float(random.uniform(1, 5)), 1),
        "rating_number": int(random.integers(1, 5000)),
        "features": [f"{ADJECTIVES[(number + 1) % 6]} {kind}", "gift ready"][: number % 3],
        "description": [f"A {kind} for every day."] if number % 2 else [],
        "price": [None, round(float(random.uniform(1, 300)), 2), "—"][number % 3],
        "images": [{"thumb": f"https://m.media/{number}.jpg", "large": None, "variant": "MAIN", "hi_res": None}],
        "videos": [],
        "store": f"Store {number % 17}",
        "categories": [],
        # As published: a mapping, with other keys for every product.
        "details": {f"Key {random.integers(0, 900)}": "a value" for _ in range(6)},
        "parent_asin": f"B{number:09}",
        "bought_together": None,
    }


def lines(categories: Mapping[str | None, int], first: int = 0) -> Iterator[str]:
    """Lines of some categories, mixed; the keys stand as they are published."""
    numbers = [category for category, rows in categories.items() for _ in range(rows)]
    for place, position in enumerate(np.random.default_rng(first).permutation(len(numbers))):
        yield json.dumps(item(first + place, numbers[position])) + "\n"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files, packed by gzip and zstd, one of them with rows that have no category."""
    folder = tmp_path_factory.mktemp("amazon")
    beauty, grocery = folder / "meta_All_Beauty.jsonl.gz", folder / "meta_Grocery_and_Gourmet_Food.jsonl.zst"
    with gzip.open(beauty, "wt") as file:
        file.writelines(lines({"All Beauty": 300, None: 20}))
    with pa.output_stream(str(grocery), compression="zstd") as packed:
        packed.write("".join(lines({"Grocery": 150, "Industrial & Scientific": 40, None: 7}, first=10_000)).encode())
    return [beauty, grocery]


@pytest.mark.slow
def test_published_files_are_fitted_on_title_features_and_description(published: list[Path], tmp_path: Path) -> None:
    columns = ["--label", "main_category", "--text", "title", "--text", "features", "--text", "description"]
    result = catcli("fit", *published, *columns, "--per-category", "60", "--epochs", "1", "--no-refit", "-o", "amazon", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "517 rows read, 490 labeled with 3 categories" in said
    assert "160 of them are sampled, evenly over the categories" in said
    assert "27 rows without a category, not used for training" in said
    manifest = load_adapter(tmp_path / "amazon").manifest
    assert manifest.text == ("title", "features", "description")
    assert manifest.categories == ("All Beauty", "Grocery", "Industrial & Scientific")
    catcli("predict", published[0], "-o", "labeled.jsonl", "--adapter", "amazon", "-q", cwd=tmp_path, check=True)
    labeled = [json.loads(line) for line in (tmp_path / "labeled.jsonl").read_text().splitlines()]
    given = read(published[0])
    assert [{name: row[name] for name in given[0]} for row in labeled] == given
    right = [row["predicted_category"] == row["main_category"] for row in labeled if row["main_category"]]
    assert sum(right) > 0.95 * len(right)


def test_the_roles_of_published_columns_are_found_without_options(published: list[Path]) -> None:
    from catcli.data.dataset.columns import choose_columns

    frame = gather_rows(open_source(list(map(str, published))), None, (), None, 0).frame
    found = choose_columns(frame, None, (), None, "meta.jsonl")
    assert found.label == "main_category"
    assert found.text[0] == "title"
    assert {"features", "description"} <= set(found.text)
    assert not {"details", "images", "parent_asin"} & set(found.text)


def test_a_mapping_with_ever_other_keys_is_text(published: list[Path]) -> None:
    batch = next(open_source([str(published[0])]).batches())
    assert batch.frame.schema["details"] == pl.String
    assert list(batch.frame.columns) == list(item(0, None))
    assert json.loads(batch.frame["details"][0]) == read(published[0])[0]["details"]


def read(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt") as lines_:
        return [json.loads(line) for line in lines_]


def source_of(folder: Path, labels: list[str | None]) -> Source:
    file = folder / "rows.csv"
    pl.DataFrame({"number": range(len(labels)), "category": labels, "title": ["a mug"] * len(labels)}).write_csv(file)
    return open_source([str(file)])


def drawn(folder: Path, labels: list[str | None], most: int, seed: int = 0) -> pl.DataFrame:
    return gather_rows(source_of(folder, labels), "category", (), most, seed).frame


def test_a_draw_takes_at_most_so_many_of_each_category_in_their_order(tmp_path: Path) -> None:
    labels: list[str | None] = ["common"] * 500 + ["rare"] * 3 + [None, " "] * 2 + ["other"] * 40
    found = gather_rows(source_of(tmp_path, labels), "category", (), 20, 0)
    assert Counter(found.frame["category"].to_list()) == {"common": 20, "rare": 3, "other": 20}
    numbers = found.frame["number"].cast(pl.Int64)
    assert numbers.is_sorted()
    assert (found.read, found.unlabeled) == (547, 4)


def batches_of(rows: int) -> Callable[[Source], Iterator[Batch]]:
    """Reading so few rows at a time."""
    whole = Source.batches
    return lambda source: whole(source, rows)


def test_a_draw_is_as_likely_to_take_the_last_row_as_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 100)  # it settles on the way, again and again
    monkeypatch.setattr(module, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(Source, "batches", batches_of(16))
    times = np.zeros(200)
    for seed in range(60):
        times[drawn(tmp_path, ["one"] * 200, 50, seed)["number"].cast(pl.Int64).to_numpy()] += 1
    # 15 on average; thirds of the file within four standard deviations of that.
    assert times.sum() == 60 * 50
    assert np.allclose(times.reshape(4, 50).mean(1), 15, atol=4 * np.sqrt(60 * 0.25 * 0.75 / 50))


def test_a_draw_is_the_same_however_the_rows_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str | None] = ["a", "b", "c", "a"] * 200
    one = drawn(tmp_path, labels, 30)
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 1000)
    monkeypatch.setattr(module, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(Source, "batches", batches_of(32))
    assert one.equals(drawn(tmp_path, labels, 30))
    assert not one.equals(drawn(tmp_path, labels, 30, seed=1))


def test_a_draw_holds_no_more_than_it_takes(tmp_path: Path) -> None:
    """Memory: a file of rows that are long and of which few are wanted is read in a process that must not hold it."""
    file = tmp_path / "long.jsonl"
    with file.open("w") as out:
        for number in range(100_000):
            out.write(json.dumps({"category": f"c{number % 3}", "title": f"{number} " + "long words " * 400}) + "\n")
    assert file.stat().st_size > 400_000_000
    code = (
        "from catcli.data.dataset.gather import gather_rows\nfrom catcli.data.io.source import open_source\n"
        "from catcli.memory import peak_memory\nbefore = peak_memory()\n"
        f"rows = gather_rows(open_source([{str(file)!r}]), 'category', (), 100, 0)\n"
        "print(len(rows.frame), rows.read, peak_memory() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, read, grown = map(int, ran.stdout.split())
    assert (rows, read) == (300, 100_000)
    assert grown < file.stat().st_size / 1.8
