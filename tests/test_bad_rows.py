"""Rows that cannot be read: they stop a run, are left out, or come out with nulls, and are listed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import FIXTURE, catcli, small_shards, stopped_after

from catcli.data.io.parts import Parts
from catcli.errors import OutputError, ProductsError, UsageError
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.summary import PredictSummary

GOOD = [f"{number},mug {number}" for number in range(1, 41)]

BAD: dict[str, tuple[bytes, str]] = {
    "too many cells": (b"9,too,many", "has 3 cells where the header has 2"),
    "a letter of another encoding": (b"9,gr\xf6\xdfe", "holds bytes that are not of its encoding"),
    "a quote that is not closed": (b'9,"big mug', "the quote that opens a cell in line 22, '9,\"big mug', is not closed properly"),
}


def labeled(folder: Path, catalog: str, out: str, policy: str, **more: object) -> PredictSummary:
    asked = replace(PredictOptions(str(folder / out), str(FIXTURE), device="cpu", on_bad_row=policy), **more)  # type: ignore[arg-type]
    return predict([str(folder / catalog)], asked)


def listed(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_of_csv_is_left_out_or_comes_out_with_nulls(tmp_path: Path, kind: str) -> None:
    content, why = BAD[kind]
    umlauts = [f"{row} größe" for row in GOOD]  # enough letters for a damaged file of UTF-8
    lines = ["sku,title", *umlauts[:20]]
    (tmp_path / "catalog.csv").write_bytes("\n".join(lines).encode() + b"\n" + content + b"\n" + "\n".join(umlauts[20:]).encode() + b"\n")
    with pytest.raises(ProductsError):
        labeled(tmp_path, "catalog.csv", "out.csv", "stop")
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]

    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad, done.blank) == (40, 1, 0)
    assert pl.read_csv(tmp_path / "out.csv", infer_schema=False)["sku"].to_list() == [str(number) for number in range(1, 41)]
    (row,) = listed(tmp_path / "out.csv.bad.jsonl")
    assert (row["file"], row["line"]) == (str(tmp_path / "catalog.csv"), 22)
    assert why in row["reason"]
    assert row["content"] == content.decode("utf-8", "backslashreplace")

    done = labeled(tmp_path, "catalog.csv", "null.csv", "null", top_k=2, min_confidence=0.99, review=str(tmp_path / "review.csv"))
    assert (done.rows, done.bad, done.blank) == (41, 1, 0)
    frame = pl.read_csv(tmp_path / "null.csv", infer_schema=False)
    assert frame["sku"].to_list() == [*(str(number) for number in range(1, 21)), None, *(str(number) for number in range(21, 41))]
    assert frame.row(20) == (None,) * 5
    assert None not in pl.read_csv(tmp_path / "review.csv", infer_schema=False)["sku"].to_list()


@pytest.mark.parametrize("policy", ["skip", "null"])
def test_a_bad_line_of_json_is_left_out_or_comes_out_with_nulls(tmp_path: Path, policy: str) -> None:
    lines = [json.dumps({"sku": number, "title": f"mug {number} größe"}, ensure_ascii=False).encode() for number in range(40)]
    odd = [b'{"sku": 1, "title": "cut', b"[1, 2]", b'{"title": "gr\xf6\xdfe"}', b'{"title": NaN}', b"[" * 100_000]
    (tmp_path / "catalog.jsonl").write_bytes(b"\n".join([*lines[:20], *odd, *lines[20:]]) + b"\n")
    done = labeled(tmp_path, "catalog.jsonl", "out.jsonl", policy)
    assert (done.rows, done.bad) == (40 if policy == "skip" else 45, 5)
    out = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [line.startswith(came[:-1]) for line, came in zip([*out[:20], *out[-20:]], lines, strict=True)] == [True] * 40
    if policy == "null":
        assert [json.loads(line) for line in out[20:25]] == [{"predicted_category": None, "confidence": None}] * 5
    rows = listed(tmp_path / "out.jsonl.bad.jsonl")
    assert [row["line"] for row in rows] == [21, 22, 23, 24, 25]
    reasons = ["is not JSON", "is not a JSON object but list", "byte 0xf6", "NaN is not a number", "nested too deeply"]
    assert [why in row["reason"] for row, why in zip(rows, reasons, strict=True)] == [True] * 5


def test_bad_rows_at_both_ends_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("sku,title\n1,a,b\n2,mug\n3,c,d\n4,e")
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad) == (2, 2)
    (tmp_path / "catalog.csv").write_text("sku,title\n1,a,b\n2")
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad) == (0, 2)
    assert [row["line"] for row in listed(tmp_path / "out.csv.bad.jsonl")] == [2, 3]


def test_of_lines_that_a_quote_swallows_only_the_first_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.data.io.csv_reader.MAX_RECORD", 200)
    (tmp_path / "catalog.csv").write_text('sku,title\n0,"never closed\n' + "\n".join(GOOD) + "\n")
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad) == (40, 1)
    (row,) = listed(tmp_path / "out.csv.bad.jsonl")
    assert (row["line"], row["content"]) == (2, '0,"never closed')


def test_a_run_that_a_bad_row_stopped_goes_on_past_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 8)
    (tmp_path / "catalog.csv").write_text("\n".join(["sku,title", *GOOD[:30], "9,too,many", *GOOD[30:]]) + "\n")
    with pytest.raises(
        ProductsError, match=r"labeled rows are kept: the same command with --on-bad-row skip, or null, continues past that row"
    ):
        labeled(tmp_path, "catalog.csv", "out.csv", "stop")
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip", resume=True)
    assert done.resumed > 0
    assert (done.rows, done.bad) == (40, 1)
    labeled(tmp_path, "catalog.csv", "whole.csv", "skip")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(listed(tmp_path / "out.csv.bad.jsonl")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "catalog.csv", "out.csv", "out.csv.bad.jsonl", "whole.csv", "whole.csv.bad.jsonl",
    ]  # fmt: skip


def test_the_command_says_how_many_and_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("\n".join(["sku,title", *GOOD, "9,too,many"]) + "\n")
    line = ("predict", "catalog.csv", "--adapter", FIXTURE, "--device", "cpu", "--on-bad-row")
    ran = catcli(*line, "skip", "-o", "out.csv", cwd=tmp_path, check=True)
    assert "warning: 1 row could not be read and is left out: out.csv.bad.jsonl" in ran.stderr
    ran = catcli(*line, "null", "-o", "-", cwd=tmp_path, check=True)
    assert "1 row could not be read and is written as nulls; they are not listed beside a pipe" in " ".join(ran.stderr.split())
    assert ran.stdout.count("\n") == 42
    ran = catcli(*line, "skip", "-o", "strict.csv", "--strict", cwd=tmp_path)
    assert (ran.returncode, (tmp_path / "strict.csv").exists(), (tmp_path / "strict.csv.bad.jsonl").exists()) == (1, False, False)
    assert "1 row could not be read" in ran.stderr
    with pytest.raises(UsageError, match="--on-bad-row ignore: choose one of stop, skip, null"):
        labeled(tmp_path, "catalog.csv", "out.csv", "ignore")


def test_a_run_does_not_go_on_with_another_policy_once_a_row_was_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out and what is written as nulls are other rows: the number of rows that are done means something else."""
    small_shards(monkeypatch, 8)
    lines = [line for row in GOOD for line in (row, *(["9,too,many"] if row.startswith(("5,", "15,", "25,")) else []))]
    (tmp_path / "catalog.csv").write_text("\n".join(["sku,title", *lines]) + "\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "commit", stopped_after(3))
        labeled(tmp_path, "catalog.csv", "out.csv", "null")
    with pytest.raises(OutputError, match=r"--resume: --on-bad-row changed since"):
        labeled(tmp_path, "catalog.csv", "out.csv", "skip", resume=True)
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad, done.resumed) == (40, 3, 0)
    assert pl.read_csv(tmp_path / "out.csv", infer_schema=False)["sku"].to_list() == [str(number) for number in range(1, 41)]


def test_all_lines_of_a_bad_row_that_is_quoted_rightly_are_bad(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text('id,title,x\n1,"desc\nline two",x,extra\n2,mug,y\n')
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad) == (1, 1)
    (row,) = listed(tmp_path / "out.csv.bad.jsonl")
    assert (row["line"], row["content"]) == (2, '1,"desc\nline two",x,extra')


def test_the_rest_of_a_line_that_is_too_long_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.data.io.csv_reader.MAX_RECORD", 50)
    (tmp_path / "catalog.csv").write_text("sku,title\n1,mug\n2," + "x" * 200 + ",tail\n3,drill\n")
    done = labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (done.rows, done.bad) == (2, 1)
    assert [row["line"] for row in listed(tmp_path / "out.csv.bad.jsonl")] == [3]


def test_a_number_beyond_all_bounds_is_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "catalog.jsonl").write_text('{"title": "mug", "n": 1e999}\n{"title": "drill", "n": 1}\n')
    done = labeled(tmp_path, "catalog.jsonl", "out.jsonl", "skip")
    assert (done.rows, done.bad) == (1, 1)
    assert "has the number 1e999, beyond all that can be counted with" in listed(tmp_path / "out.jsonl.bad.jsonl")[0]["reason"]


def test_the_list_replaces_nothing_but_an_older_list(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("sku,title\n1,mug\n2,a,b\n")
    labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    with pytest.raises(OutputError, match=r"out\.csv\.bad\.jsonl exists and --no-clobber leaves it alone"):
        (tmp_path / "out.csv").unlink()
        labeled(tmp_path, "catalog.csv", "out.csv", "skip", no_clobber=True)
    with pytest.raises(UsageError, match=r"--on-bad-row lists rows in .*, which is the review or one of the inputs"):
        labeled(tmp_path, "catalog.csv", "x.csv", "skip", min_confidence=0.5, review=str(tmp_path / "x.csv.bad.jsonl"))
    (tmp_path / "catalog.csv").write_text("sku,title\n1,mug\n")
    labeled(tmp_path, "catalog.csv", "out.csv", "skip")
    assert (tmp_path / "out.csv.bad.jsonl").read_text() == ""


def test_a_row_of_nulls_is_not_one_without_text(tmp_path: Path) -> None:
    """Its text is what the path spells, if that is a text column."""
    (tmp_path / "in" / "brand=Acme").mkdir(parents=True)
    (tmp_path / "in" / "brand=Acme" / "catalog.csv").write_text("sku,title\n1,mug\n2,a,b\n3,\n")
    done = labeled(tmp_path, "in", "out.csv", "null", text=("title=brand",))
    assert (done.rows, done.bad, done.blank) == (3, 1, 0)
