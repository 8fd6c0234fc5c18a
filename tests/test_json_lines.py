"""JSON Lines whose columns no type holds, and keys that come twice."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from conftest import FIXTURE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.data.io import json_lines
from catcli.data.io.source import open_source
from catcli.errors import CatcliError
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions

ODD = [
    [[1], "x"],
    [{"b": 1}, [2]],
    {"x": [1]},
    [1],
    "text",
    None,
    [[[]], [{}], 1.5],
    123456789012345678901234567890,
    [123456789012345678901234567890],
    {"a": {"b": [1, "2", None]}},
    True,
]
"""Cells of one column of a shop's export."""


def written(path: Path, rows: list[dict[str, object]]) -> list[str]:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return lines


def labeled(catalog: Path, out: Path) -> None:
    assert predict([str(catalog)], PredictOptions(str(out), str(FIXTURE), device="cpu")).rows


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_a_column_of_mixed_nested_cells_goes_through(tmp_path: Path, ending: str) -> None:
    lines = written(tmp_path / "catalog.jsonl", [{"title": f"mug {number}", "odd": cell} for number, cell in enumerate(ODD)])
    labeled(tmp_path / "catalog.jsonl", tmp_path / f"out.{ending}")
    if ending == "jsonl":
        out = (tmp_path / "out.jsonl").read_text().splitlines()
        assert [line.startswith(came[:-1] + ", ") for line, came in zip(out, lines, strict=True)] == [True] * len(ODD)
    else:
        out_file = tmp_path / f"out.{ending}"
        frame = {"csv": pl.scan_csv, "parquet": pl.scan_parquet}.get(ending, pl.scan_ipc)(out_file).collect()  # type: ignore[operator]
        cells = frame["odd"].to_list()
        assert [cell if cell is None or ODD[row] == "text" else json.loads(cell) for row, cell in enumerate(cells)] == ODD


def test_columns_of_one_type_keep_it_beside_a_mixed_one(tmp_path: Path) -> None:
    rows = [{"title": f"mug {number}", "odd": cell, "price": number, "tags": ["a", "b"]} for number, cell in enumerate(ODD)]
    written(tmp_path / "catalog.jsonl", rows)
    (batch,) = open_source([str(tmp_path / "catalog.jsonl")]).batches()
    assert batch.types == {"title": pl.String(), "odd": pl.String(), "price": pl.Int64(), "tags": pl.List(pl.String())}


def test_the_last_of_two_equal_keys_counts_and_the_line_stays_as_it_is(tmp_path: Path) -> None:
    line = '{"title": "drill", "price": 1, "title": "mug", "note": {"title": "x"}}'
    (tmp_path / "catalog.jsonl").write_text(line + '\n{"title": "hammer", "price": 2, "note": {"title": "\\"title\\""}}\n')
    (batch,) = open_source([str(tmp_path / "catalog.jsonl")]).batches()
    assert batch.frame["title"].to_list() == ["mug", "hammer"]
    labeled(tmp_path / "catalog.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith(line[:-1] + ", ")


KEYS = st.sampled_from(['"a"', '"b"', '"a,b"', '"\\u0061"', '"a\\"b"', '"a\\u002c,b"', '"é"', '"\\u00e9"'])
CELLS = st.sampled_from(["1", "2", "null", '"a"', '"x\\ny"', '{"a": 1}', "[]", '"b\\": "', "null"])
PAIRS = st.lists(st.tuples(KEYS, st.sampled_from([":", ": ", " : "]), CELLS), max_size=4)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(PAIRS, min_size=1, max_size=6))
def test_keys_that_come_twice_are_seen_without_parsing_every_line(tmp_path: Path, rows: list[list[tuple[str, str, str]]]) -> None:
    """The frames are those of lines from which the first of two equal keys was taken."""
    lines = ["{" + ", ".join("".join(pair) for pair in row) + "}" for row in rows]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def read() -> object:
        try:
            return open_source([str(tmp_path / "in.jsonl")]).read().frame.to_dicts()
        except CatcliError as error:
            return str(error)

    found = read()
    with mock.patch.object(json_lines, "_frame_of_unique_keys", return_value=None):
        assert found == read()


def test_a_long_run_of_backslashes_takes_no_longer_than_other_text(tmp_path: Path) -> None:
    """Two million of them: by the square of their number this would take hours."""
    cell = "\\" * 2_000_000
    (tmp_path / "in.jsonl").write_text(json.dumps({"title": cell}) + "\n")
    assert open_source([str(tmp_path / "in.jsonl")]).read().frame["title"].to_list() == [cell]
