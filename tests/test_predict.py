"""A catalog's way through predict: threads, parts, what comes again, what came before."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Shop, catcli, small_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catcli.cli.console import Console
from catcli.cli.predict import run_dry
from catcli.cli.run.bench import bench
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat
from catcli.data.io.parts import Parts
from catcli.data.io.review import ReviewFile, ReviewOrder, ReviewSpill
from catcli.data.io.source import open_source
from catcli.errors import AdapterError, ProductsError, UsageError
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference.engines import ThreadEngine
from catcli.inference.known_labels import KnownLabels
from catcli.inference.labeler import Labeler, Labels
from catcli.inference.planning import LabelingPlan
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.result_columns import CONFIDENCE, PREDICTED
from catcli.inference.shards import ShardOptions

TABLES = int(os.environ.get("CATCLI_TABLES", "40"))
"""Random tables that go through every format; the benchmark's figure is of 1,000."""

WORDS = ("arabica", "espresso", "drill", "hammer", "mug", "plate", "shampoo", "soap", "red", "large", "1kg", "18V")


def titles(count: int) -> list[str]:
    return [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 3), count)]


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of eight texts, and shards of 64 rows, so that a few hundred rows are many of each."""
    monkeypatch.setattr(Labeler, "texts_per_call", 8)
    monkeypatch.setattr("catcli.inference.shards.MIN_KNOWN_ROWS", 16)
    monkeypatch.setattr("catcli.inference.planning.FIRST_PIECE_ROWS", 2)
    small_shards(monkeypatch, 64)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    rows = titles(500)
    # Every third row repeats one that came long before or just now.
    repeated = [row if number % 3 else rows[number // 2] for number, row in enumerate(rows)]
    path = tmp_path / "catalog.parquet"
    pl.DataFrame({"sku": [f"{number:05}" for number in range(500)], "title": repeated, "brand": "x", "description": None}).write_parquet(
        path
    )
    return path


# --- threads and parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_calls")
def test_no_number_of_workers_changes_a_byte(shop: Shop, catalog: Path, tmp_path: Path) -> None:
    for workers in (1, 5):
        predict([str(catalog)], PredictOptions(str(tmp_path / f"{workers}.csv"), shop.adapter, workers=workers))
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "5.csv").read_bytes()


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("small_calls")
@pytest.mark.parametrize("name", ["out.csv", "out.jsonl.gz", "out.parquet"])
def test_a_run_that_was_stopped_goes_on_to_the_very_same_output(
    shop: Shop, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    review, whole_review = tmp_path / f"review-{name}", tmp_path / f"whole-review-{name}"
    whole = PredictOptions(str(tmp_path / f"whole-{name}"), shop.adapter, min_confidence=0.9, review=str(whole_review))
    undisturbed = predict([str(catalog)], whole)
    asked = replace(whole, output=str(tmp_path / name), review=str(review), resume=True)
    commit = Parts.commit
    for stop_after in (1, 2):
        calls = itertools.count()

        def stopped(parts: Parts, calls: Iterator[int] = calls, stop_after: int = stop_after) -> None:
            if next(calls) >= stop_after:
                raise Killed
            commit(parts)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Parts, "commit", stopped)
            predict([str(catalog)], asked)
        assert not (tmp_path / name).exists()
        assert not review.exists()
    resumed = predict([str(catalog)], asked)
    assert 0 < resumed.resumed < resumed.rows == 500
    assert (resumed.labeled, resumed.categories) == (undisturbed.labeled, undisturbed.categories)
    if name.endswith(".csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
        assert review.read_bytes() == whole_review.read_bytes()
    for pair in ((tmp_path / name, tmp_path / f"whole-{name}"), (review, whole_review)):
        one, other = (open_source([str(path)]).read().frame for path in pair)
        assert one.equals(other)
        assert len(one)
    files = ["catalog.parquet", name, f"whole-{name}", review.name, whole_review.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_review_of_many_ranges_is_sorted_and_has_no_row_without_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.data.io.review.MAX_RANGE_ROWS", 10)
    sure = np.random.default_rng(0).integers(0, 40, 500).astype(np.float32) / 40
    frame, added = pl.DataFrame({"row": range(500)}), pl.DataFrame({"confidence": sure})
    form, spills = FileFormat("parquet"), list[Path]()
    for start in range(0, 500, 70):
        spills.append(tmp_path / f"spill-{start}")
        with ReviewSpill(spills[-1], form) as spill:
            spill.write(Batch(frame[start : start + 70], 1.0), ["row"], added[start : start + 70])
    places = np.argsort(np.argsort(sure, kind="stable"))
    places[places < 13] = -1
    places[places >= 0] -= 13
    review = ReviewFile(str(tmp_path / "review.parquet"), form, tmp_path, {})
    review.finish(spills, ReviewOrder(places, {"place": pl.Series(places)}), Batch(frame[:0].hstack(added[:0]), 1.0))
    expected = frame.hstack(added).sort("confidence", maintain_order=True)[13:].with_columns(place=pl.int_range(487))
    assert pl.read_parquet(tmp_path / "review.parquet").equals(expected)


@pytest.mark.usefixtures("small_calls")
def test_an_error_midway_keeps_what_was_done_and_says_so(shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{title},x,y\n" for title in titles(500))
    (tmp_path / "catalog.csv").write_text("title,brand,description\n" + rows + "too,many,cells,here\n")
    asked = PredictOptions(str(tmp_path / "out.csv"), shop.adapter, resume=True)
    with pytest.raises(
        ProductsError,
        match=r"line 502 has 4 cells where the header has 3; .* labeled rows are kept: the same command with --on-bad-row skip",
    ):
        predict([str(tmp_path / "catalog.csv")], asked)
    with pytest.raises(ProductsError, match="line 502"):  # goes on, and meets the same line
        predict([str(tmp_path / "catalog.csv")], asked)
    (tmp_path / "catalog.csv").write_text("title,brand,description\n" + rows)
    done = predict([str(tmp_path / "catalog.csv")], asked)
    assert (done.rows, done.resumed) == (500, 0)
    assert "448 rows that a stopped run had labeled are labeled again: " in caplog.text
    assert "catalog.csv changed since" in caplog.text


def test_resume_with_nothing_to_resume_starts_anew_and_says_so(shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict([str(shop.catalog)], PredictOptions(str(tmp_path / "out.csv"), shop.adapter, resume=True))
    assert "there is nothing to resume: the run starts at the first row" in caplog.text
    assert (tmp_path / "out.csv").exists()


# --- what comes again, what came before ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_calls")
def test_a_text_that_comes_again_is_labeled_once(shop: Shop, catalog: Path, tmp_path: Path) -> None:
    once = predict([str(catalog)], PredictOptions(str(tmp_path / "once.parquet"), shop.adapter, variant="fp32"))
    every = predict([str(catalog)], PredictOptions(str(tmp_path / "every.parquet"), shop.adapter, variant="fp32", dedupe=False))
    assert once.labeled < every.labeled == 500
    one, other = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("once", "every"))
    assert one[PREDICTED].equals(other[PREDICTED])
    assert np.allclose(one[CONFIDENCE], other[CONFIDENCE], atol=1e-5)


def test_labels_are_known_by_text(tmp_path: Path) -> None:
    rows = (np.array([9, 3, 9], np.uint64), np.array([1, 2, 3], np.int32), np.array([0.1, 0.2, 0.3], np.float32))
    previous = KnownLabels.of([rows])
    places = previous.find(np.array([3, 4, 9], np.uint64))
    assert (places.tolist(), previous.classes[places[[0, 2]], 0].tolist(), len(previous)) == ([0, -1, 1], [2, 1], 2)
    other = KnownLabels.of([(np.array([3, 5], np.uint64), np.array([7, 8], np.int32), np.zeros(2, np.float32))])
    merged = KnownLabels.merge([previous, other])
    assert (merged.hashes.tolist(), merged.classes[:, 0].tolist()) == ([3, 5, 9], [2, 8, 1])
    merged.save(tmp_path / "known")
    loaded = KnownLabels.load(tmp_path / "known", 1, 9)
    assert all(np.array_equal(getattr(loaded, name), getattr(merged, name)) for name in ("hashes", "classes", "confidences"))
    for top_k, classes in ((2, 9), (1, 8)):  # of another run, or another adapter
        with pytest.raises(ValueError, match="its arrays have other types|its classes are not the adapter's"):
            KnownLabels.load(tmp_path / "known", top_k, classes)


def test_rows_of_an_earlier_output_are_taken_over(shop: Shop, catalog: Path, tmp_path: Path) -> None:
    labeled = tmp_path / "labeled.parquet"
    predict([str(catalog)], PredictOptions(str(labeled), shop.adapter, variant="fp32"))
    before = pl.read_parquet(labeled)
    changed = pl.read_parquet(catalog).with_columns(title=pl.when(pl.col("sku") < "00025").then(pl.lit("new mug")).otherwise("title"))
    changed.sample(fraction=1, shuffle=True, seed=0).write_parquet(catalog)
    asked = PredictOptions(str(labeled), shop.adapter, previous=str(labeled), variant="fp32")  # the same file: read before it is replaced
    summary = predict([str(catalog)], asked)
    assert (summary.rows, summary.taken_over) == (500, 475)
    assert summary.labeled == 1
    after = pl.read_parquet(labeled).sort("sku")
    assert after.filter(pl.col("sku") >= "00025").equals(before.filter(pl.col("sku") >= "00025").select(after.columns))
    line = ("predict", catalog, "-o", labeled, "--adapter", shop.adapter, "--previous", labeled, "--variant", "fp32")
    assert f"500 rows taken over from {labeled}, 0 labeled" in catcli(*line, cwd=tmp_path, check=True).stderr


def test_an_output_of_another_adapter_is_not_taken_over(
    shop: Shop, catalog: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labeled = tmp_path / "labeled.csv"
    predict([str(catalog)], PredictOptions(str(labeled), shop.adapter))
    pl.read_csv(labeled, infer_schema=False).with_columns(pl.col(CONFIDENCE).cast(pl.Float64) / 2).write_csv(tmp_path / "other.csv")
    summary = predict([str(catalog)], PredictOptions(str(labeled), shop.adapter, previous=str(tmp_path / "other.csv")))
    assert summary.taken_over == 0
    assert "was labeled by another adapter, from other text or with other options, such as --max-change" in caplog.text
    with pytest.raises(ProductsError, match="has no column 'predicted_category'; it has to be an output of catcli predict"):
        predict([str(catalog)], PredictOptions(str(labeled), shop.adapter, previous=str(catalog)))
    with pytest.raises(UsageError, match="--previous takes over one category a row"):
        predict([str(catalog)], PredictOptions(str(labeled), shop.adapter, previous=str(catalog), top_k=2))


# --- what goes in comes out ----------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12))
KINDS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "text": (pl.String(), TEXTS),
    "whole": (pl.Int64(), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    "real": (pl.Float64(), st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
    "yes": (pl.Boolean(), st.one_of(st.none(), st.booleans())),
    "day": (pl.Date(), st.one_of(st.none(), st.dates(date(1900, 1, 1), date(2100, 1, 1)))),
    "tags": (pl.List(pl.String()), st.one_of(st.none(), st.lists(TEXTS, max_size=3))),
}


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    names = draw(
        st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6), max_size=5, unique=True)
    )
    names = ["title", *(name for name in names if name not in ("title", PREDICTED, CONFIDENCE))]
    kinds = [KINDS["text"], *(draw(st.sampled_from(list(KINDS.values()))) for _ in names[1:])]
    count = draw(st.integers(0, 8))
    cells = [[draw(cell) for _ in range(count)] for _, cell in kinds]
    return pl.DataFrame([pl.Series(name, values, dtype=kind) for name, (kind, _), values in zip(names, kinds, cells, strict=True)])


@settings(max_examples=TABLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_columns_types_and_order_come_out_as_they_came_in(shop: Shop, tmp_path: Path, frame: pl.DataFrame) -> None:
    labeler = Labeler(shop.fitted.adapter, "cpu", "fp32") if not LABELER else LABELER[0]
    LABELER[:] = [labeler]
    text = frame.select(
        pl.Series(name, [None if cell is None else str(cell) for cell in frame[name]], dtype=pl.String) for name in frame.columns
    )
    frame.write_parquet(tmp_path / "in.parquet")
    frame.write_ipc(tmp_path / "in.arrow")
    (tmp_path / "in.jsonl").write_bytes(frame.write_ndjson().encode())
    text.write_csv(tmp_path / "in.csv")
    for ending in ("parquet", "arrow", "jsonl", "csv"):
        if ending == "jsonl" and not len(frame):
            continue  # no line, no column: such a file is refused as empty
        through = tmp_path / f"out.{ending}"
        asked = PredictOptions(str(through), shop.adapter, allow_missing=True, delimiter="," if ending == "csv" else None)
        predict([str(tmp_path / f"in.{ending}")], asked, engine=ThreadEngine(labeler))
        if ending == "jsonl":
            rows = [json.loads(line) for line in through.read_text(encoding="utf-8").split("\n")[:-1]]
            ours = [{name: row[name] for name in row if name not in (PREDICTED, CONFIDENCE)} for row in rows]
            assert ours == [json.loads(line) for line in (tmp_path / "in.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
            assert all(list(row)[-2:] == [PREDICTED, CONFIDENCE] for row in rows)
            continue
        before, after = (
            open_source([str(path)], delimiter="," if ending == "csv" else None).read().frame
            for path in (tmp_path / f"in.{ending}", through)
        )
        assert after.columns == [*before.columns, PREDICTED, CONFIDENCE]
        theirs = pl.DataFrame([after.get_column(name) for name in before.columns])  # select takes a name such as * for a pattern
        assert theirs.equals(before)
        assert theirs.schema == before.schema


def test_shards_of_one_call_each_keep_all_workers_busy() -> None:
    """As of many small files: all eight calls have to be in work at once for the first of them to end."""
    all_in_work = threading.Barrier(8, timeout=60)

    def label(texts: list[str], _: LabelChoice) -> Labels:
        all_in_work.wait()
        return Labels(np.zeros((len(texts), 1), np.int64), np.ones((len(texts), 1), np.float32))

    labeler = SimpleNamespace(
        categories=("a",), notes=[], variant="fp32", provider="CPU", texts_per_call=256, cascade=None, workers=8, label=label
    )
    frames = [pl.DataFrame({"title": [f"mug {number} {row}" for row in range(3)]}) for number in range(16)]
    batches = (Batch(frame, 1.0, part=number) for number, frame in enumerate(frames))
    engine = ThreadEngine(labeler)  # type: ignore[arg-type]
    labeled = engine.label_shards(SimpleNamespace(), batches, ShardOptions(("a",), LabelingPlan(("title",))))  # type: ignore[arg-type]
    assert [result.summary.rows for result in labeled] == [3] * 16


LABELER: list[Labeler] = []


def test_chosen_columns_alone_are_kept(shop: Shop, tmp_path: Path) -> None:
    predict([str(shop.catalog)], PredictOptions(str(tmp_path / "out.csv"), shop.adapter, keep="Title"))
    assert pl.read_csv(tmp_path / "out.csv").columns == ["title", PREDICTED, CONFIDENCE]
    with pytest.raises(ProductsError, match="--keep 'colour': .* has no such column"):
        predict([str(shop.catalog)], PredictOptions(str(tmp_path / "out.csv"), shop.adapter, keep="title,colour"))


def test_a_folder_of_files_becomes_a_folder_of_files(shop: Shop, tmp_path: Path) -> None:
    frame = pl.read_csv(shop.catalog, infer_schema=False)
    for number, country in enumerate(("de", "fr")):
        place = tmp_path / "in" / f"country={country}"
        place.mkdir(parents=True)
        frame.slice(number * 10, 10).write_csv(place / "part.csv")
    summary = predict([str(tmp_path / "in")], PredictOptions(f"{tmp_path}/out/", shop.adapter))
    assert summary.rows == 20
    out = pl.read_csv(tmp_path / "out" / "country=fr" / "part.csv", infer_schema=False)
    assert out.columns == [*frame.columns, "country", PREDICTED, CONFIDENCE]
    assert out.select(frame.columns).equals(frame.slice(10, 10))
    with pytest.raises(UsageError, match="is one of the inputs; write to another folder"):
        predict([str(tmp_path / "in")], PredictOptions(str(tmp_path / "in"), shop.adapter))


def test_a_pipe_goes_through_and_may_be_closed_early(shop: Shop, tmp_path: Path) -> None:
    many = tmp_path / "many.csv.gz"
    pl.concat([pl.read_csv(shop.catalog, infer_schema=False)] * 50).write_csv(many.with_suffix(""))
    predicted = f"{sys.executable} -m catcli predict - -o - --adapter {shop.adapter} --device cpu"
    line = f"set -o pipefail; gzip -c {many.with_suffix('')} | {predicted} | head -2"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert done.stdout.splitlines()[0].endswith(f",{PREDICTED},{CONFIDENCE}")
    assert "Traceback" not in done.stderr


# --- before ------------------------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_rows_time_and_memory_and_writes_nothing(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_dry([str(shop.catalog)], PredictOptions(str(tmp_path / "out.csv"), shop.adapter), as_json=True, console=Console())
    assert found.rows == len(pl.read_csv(shop.catalog))
    assert found.seconds is not None
    assert found.seconds > 0
    assert json.loads(capsys.readouterr().out)["rows"] == found.rows
    run_dry([str(shop.catalog)], PredictOptions(str(tmp_path / "out.csv"), shop.adapter), console=Console())
    assert "MiB of memory" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_options_that_cannot_be_met_are_refused(shop: Shop, tmp_path: Path) -> None:
    out = str(tmp_path / "out.csv")
    with pytest.raises(AdapterError, match="--variant fp16: .* has 'fp32'.*; choose one of these"):
        predict([str(shop.catalog)], PredictOptions(out, shop.adapter, variant="fp16"))
    for asked, sentence in (
        (PredictOptions(out, variant="fp8"), "--variant fp8: choose one of"),
        (PredictOptions(out, workers=0), "--workers 0: a whole number above 0"),
        (PredictOptions("-", resume=True), "--resume: what went into - is gone"),
    ):
        with pytest.raises(UsageError, match=sentence):
            predict([str(shop.catalog)], asked)


def test_long_texts_are_counted(shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"title": ["mug " * 300_000, "mug", "short"], "brand": ["x"] * 3, "description": [None] * 3})
    frame.write_parquet(tmp_path / "in.parquet")
    summary = predict([str(tmp_path / "in.parquet")], PredictOptions(str(tmp_path / "out.parquet"), shop.adapter))
    assert summary.cut == 1
    assert "1 of 3 different texts have more than the 24 tokens" in caplog.text
    assert pl.read_parquet(tmp_path / "out.parquet").select(frame.columns).equals(frame.cast({"description": pl.Null}))


# --- bench ---------------------------------------------------------------------------------------------------------------------------


def test_bench_times_every_stage_and_its_peer(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench([str(shop.catalog)], adapter=shop.adapter, rows=64, repeats=2, against="transformers", console=Console())
    assert [stage.name for stage in found.stages] == [
        "reading",
        "tokenizing",
        "session alone",
        "linear model alone",
        "writing",
        "from file to file",
        "transformers pipeline",
    ]
    assert all(0 < stage.lowest <= stage.median <= stage.highest for stage in found.stages)
    assert "from file to file" in capsys.readouterr().out
    assert bench([], adapter=shop.adapter, rows=16, repeats=1, console=Console()).rows == 16
    with pytest.raises(UsageError, match="--against optimum: choose transformers"):
        bench([], adapter=shop.adapter, against="optimum", console=Console())
