"""Buckets in and out, on a network that fails: the very bytes that a disk gives, or one sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FIXTURE, catcli, fit, small_shards, stopped_after
from corpus import ROWS, SHEET, columns, delimited, lines, objects, workbook
from elsewhere import InThisProcess
from pyarrow import feather
from s3 import FAULTS, KEYS, Server, error_500, every, server

from catcli.adapter.store import find_adapter
from catcli.data.io import buckets
from catcli.data.io.part_file import write_part
from catcli.data.io.parts import Parts
from catcli.data.io.source import open_source
from catcli.data.io.uploaded_parts import parts_prefix
from catcli.errors import ChangedError, OutputError, ProductsError, UsageError
from catcli.inference import remote
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.reporting.report import report
from catcli.reporting.report_options import ReportOptions as Told

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    pytest.importorskip("moto", reason="the S3 server of the tests is moto's: pip install '.[test]'")
    with server() as made:
        yield made


@pytest.fixture
def s3(running: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server without an object and without a fault, and a folder of the test's own to work in."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(
        buckets.RETRY, "backoff", {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=50), "base": 2}
    )
    monkeypatch.chdir(tmp_path)
    buckets._store.cache_clear()
    running.faults.requests.clear()
    running.faults.fault = lambda _handler, _number: False
    for key in list(running.keys()):
        running.client.delete_object(Bucket="shop", Key=key)
    yield running
    running.faults.fault = lambda _handler, _number: False
    buckets._store.cache_clear()


def labeled(source: str, out: str, **options: object) -> None:
    predict([source], PredictOptions(out, str(FIXTURE), device="cpu", **options))  # type: ignore[arg-type]


def as_files(folder: Path) -> dict[str, bytes]:
    """The same rows in every format."""
    (folder / "shop.csv").write_text(delimited())
    (folder / "shop.jsonl").write_text(lines(objects(price=1.5)))
    pq.write_table(columns(sku=pa.array([f"{number:05}" for number in range(48)])), folder / "shop.parquet", row_group_size=10)
    feather.write_feather(columns(), folder / "shop.arrow", chunksize=16)
    (folder / "shop.xlsx").write_bytes(workbook(SHEET))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- in and out -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.csv", "shop.jsonl", "shop.parquet", "shop.arrow", "shop.xlsx"])
def test_what_comes_out_of_a_bucket_and_into_one_is_what_a_disk_gives(s3: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "files").mkdir()
    s3.put(f"in/{name}", as_files(tmp_path / "files")[name])
    ending = "csv" if name.endswith("xlsx") else name.partition(".")[2]
    labeled(f"files/{name}", f"here.{ending}", top_k=2)
    labeled(f"s3://shop/in/{name}", f"s3://shop/out/labeled.{ending}", top_k=2)
    assert s3.get(f"out/labeled.{ending}") == (tmp_path / f"here.{ending}").read_bytes()
    assert s3.keys() == [f"in/{name}", f"out/labeled.{ending}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", f"here.{ending}"]


def test_patterns_prefixes_and_spelled_columns_are_those_of_a_disk(s3: Server, tmp_path: Path) -> None:
    for country, part in (("de", ROWS[:20]), ("at%20x", ROWS[20:])):
        folder = tmp_path / "shop" / f"country={country}" / "year=2026"
        folder.mkdir(parents=True)
        (folder / "part.csv").write_text(delimited(part))
        (folder / "_SUCCESS").write_text("")
    for path in (tmp_path / "shop").rglob("*"):
        if path.is_file():
            s3.put(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    for pattern in ("shop", "shop/**/*.csv", "shop/country=*/year=2026/part.csv", "shop/country=d?/**/[!_]*.csv"):
        here, there = open_source([pattern]).read().frame, open_source([f"s3://shop/{pattern}"]).read().frame
        assert there.equals(here), pattern
    labeled("shop", "out/")
    labeled("s3://shop/shop/", "s3://shop/out/")
    for path in (tmp_path / "out").rglob("*.csv"):
        assert s3.get(path.relative_to(tmp_path).as_posix()) == path.read_bytes()
    with pytest.raises(OutputError, match=r"-o s3://shop/shop/ holds 's3://shop/shop/.*_SUCCESS', which this run would not write"):
        labeled("shop/country=de", "s3://shop/shop/")


def test_odd_names_are_names(s3: Server) -> None:
    for key in ("a b/ü ☕.csv", "shop[1].csv", "x=1/a%20b.csv"):
        s3.put(key, delimited().encode())
        assert len(open_source([f"s3://shop/{key}"]).read()) == len(ROWS), key


def test_fit_report_review_and_previous_read_buckets_too(s3: Server, tmp_path: Path) -> None:
    from small_bases import save_base

    from catcli.config import Recipe

    s3.put("products.csv", delimited().encode())
    recipe = Recipe(base=str(save_base("bert", tmp_path / "base")), epochs=1, rank=2, max_tokens=16, refit=False, device="cpu")
    fitted = fit(["s3://shop/products.csv"], recipe=recipe, output=tmp_path / "new")
    assert fitted.metrics.rows.read == len(ROWS)
    assert report([str(FIXTURE)], Told(on="s3://shop/products.csv")).scored_rows == len(ROWS)  # type: ignore[union-attr]
    labeled("s3://shop/products.csv", "s3://shop/labeled.csv", review="s3://shop/review.csv", min_confidence=0.9)
    labeled("s3://shop/products.csv", "here.csv", review="review.csv", min_confidence=0.9)
    assert s3.get("review.csv") == (tmp_path / "review.csv").read_bytes()
    labeled("s3://shop/products.csv", "s3://shop/again.csv", previous="s3://shop/labeled.csv")
    assert s3.get("again.csv").count(b"\n") == len(ROWS) + 1


@pytest.mark.parametrize("name", ["large.parquet", "large.csv", "large.arrow"])
def test_no_byte_of_an_object_is_read_twice_but_those_that_tell_its_encoding(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("catcli.data.io.streams.MAX_INSPECTED_BYTES", 2**20)
    frame = pl.DataFrame({"title": [f"mug {hash_of:x}" for hash_of in np.random.default_rng(0).integers(0, 2**62, 200_000)]})
    if name.endswith("parquet"):
        frame.write_parquet(tmp_path / name, row_group_size=20_000)
    else:
        (frame.write_csv if name.endswith("csv") else frame.write_ipc)(tmp_path / name)
    s3.put(name, (tmp_path / name).read_bytes())
    before, size = s3.faults.sent, (tmp_path / name).stat().st_size
    s3.faults.requests.clear()
    assert len(open_source([f"s3://shop/{name}"]).read()) == 200_000
    assert size <= s3.faults.sent - before < 1.15 * size + (2 * 2**20 if name.endswith("csv") else 0)
    assert len(s3.faults.requests) < 40


# --- faults ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.csv", "shop.parquet", "shop.arrow", "shop.jsonl"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_fails_now_and_then_changes_nothing(s3: Server, tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "files").mkdir()
    s3.put(name, as_files(tmp_path / "files")[name])
    ending = name.partition(".")[2]
    labeled(f"files/{name}", f"here.{ending}")
    for first in (0, 1):
        s3.faults.fault = every(FAULTS[fault], of=2 if fault != "slow" else 3, first=first)
        labeled(f"s3://shop/{name}", f"s3://shop/out.{ending}")
        assert s3.get(f"out.{ending}") == (tmp_path / f"here.{ending}").read_bytes()


def test_a_network_that_is_down_ends_in_a_sentence_and_what_stood_there_stands(s3: Server, tmp_path: Path) -> None:
    s3.put("shop.csv", delimited().encode())
    s3.put("out.csv", b"before")
    for fault in ("500", "503", "cut off"):
        s3.faults.fault = FAULTS[fault]
        with pytest.raises(
            ProductsError,
            match=r"s3://shop/shop\.csv cannot be asked, after 8 tries: .*; is the network up\? Run the same command again\.$",
        ):
            labeled("s3://shop/shop.csv", "s3://shop/out.csv")
    s3.faults.fault = lambda handler, number: handler.command in ("PUT", "POST") and error_500(handler, number)
    with pytest.raises(
        OutputError, match=r"-o s3://shop/out\.csv cannot be written, after 8 tries: .*48 labeled rows are kept: the same command continues"
    ):
        labeled("s3://shop/shop.csv", "s3://shop/out.csv")
    assert s3.get("out.csv") == b"before"
    assert s3.uploads() == []
    s3.faults.fault = lambda _handler, _number: False
    labeled("s3://shop/shop.csv", "s3://shop/out.csv", resume=True)
    assert s3.get("out.csv").count(b"\n") == len(ROWS) + 1
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_replaced_while_it_is_read_stops_the_run(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "BLOCK", 256)
    s3.put("shop.csv", delimited().encode())
    batches = open_source(["s3://shop/shop.csv"]).batches(4)
    next(batches)
    s3.put("shop.csv", delimited(ROWS[::-1]).encode())
    with pytest.raises(ChangedError, match=r"s3://shop/shop\.csv was changed while it was read; run the same command again"):
        list(batches)


# --- what is not there ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://shop/nothing.csv", r"there is no object s3://shop/nothing\.csv that holds products; s3://shop holds 'shop\.csv'\."),
        ("s3://shop/*.parquet", r"there is no object s3://shop/\*\.parquet that holds products; s3://shop holds 'shop\.csv'\."),
        ("s3://elsewhere/shop.csv", r"there is no such bucket; check its name, and the endpoint in AWS_ENDPOINT_URL\."),
        ("s3:///shop.csv", r"s3:///shop\.csv names no bucket; write s3://BUCKET/KEY\."),
        ("s3://shop/shop.txt", r"s3://shop/shop\.txt: the ending '\.txt' names no format that catcli reads"),
    ],
)
def test_what_is_not_in_a_bucket_is_named(s3: Server, url: str, sentence: str) -> None:
    s3.put("shop.csv", delimited().encode())
    if url.endswith("txt"):
        s3.put("shop.txt", b"x")
    with pytest.raises(ProductsError, match=sentence):
        labeled(url, "out.csv")


def test_places_that_buckets_cannot_be_and_outputs_that_are_there_get_a_sentence(s3: Server, tmp_path: Path) -> None:
    s3.put("shop.csv", delimited().encode())
    with pytest.raises(UsageError, match=r"-o s3://shop/shop\.csv is one of the inputs; write to another file"):
        labeled("s3://shop/shop.csv", "s3://shop/shop.csv")
    with pytest.raises(OutputError, match=r"-o s3://shop/shop\.csv exists and --no-clobber leaves it alone"):
        (tmp_path / "here.csv").write_text(delimited())
        labeled("here.csv", "s3://shop/shop.csv", no_clobber=True)
    with pytest.raises(OutputError, match="only predict writes to a bucket"):
        report([str(FIXTURE)], Told(html=Path("s3://shop/page.html")))
    ran = catcli("fit", "here.csv", "-o", "s3://shop/adapter", cwd=tmp_path)
    assert (ran.returncode, "an adapter is made on a disk" in ran.stderr) == (1, True), ran.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://my shop/a.csv", "this is not a name of a bucket or an object"),
        ("s3://shop/a//b.csv", "this is not a name of a bucket or an object"),
        ("s3://shop/../a.csv", "this is not a name of a bucket or an object"),
        ("s3://shop/[z-a].csv", "is not a pattern"),
    ],
)
def test_names_that_cannot_be_get_a_sentence(s3: Server, url: str, said: str) -> None:
    assert s3
    with pytest.raises(ProductsError, match=said):
        open_source([url])


def test_two_names_of_one_bucket_are_one_place(s3: Server) -> None:
    s3.client.put_object(Bucket="shop", Key="a.csv", Body=delimited(ROWS).encode())
    with pytest.raises(UsageError, match="is one of the inputs"):
        labeled("s3a://shop/a.csv", "s3://shop/a.csv")


def test_ctrl_c_is_heard_while_a_bucket_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, **KEYS}
        line = [sys.executable, "-m", "catcli", "predict", "s3://shop/a.csv", "-o", "out.csv", "--adapter", str(FIXTURE)]
        with subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
            time.sleep(3)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=20)[1]
    assert (run.returncode, said.startswith("error: interrupted")) == (130, True)


def test_missing_credentials_are_named_with_what_to_set() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(plain):
            patch.delenv(name)
        for url, name in (("az://shop/x.csv", "AZURE_STORAGE_ACCOUNT_NAME"), ("s3://shop/x.csv", "AWS_ACCESS_KEY_ID")):
            patch.setitem(buckets.RETRY, "max_retries", 0)
            patch.setitem(buckets.TIMEOUTS, "timeout", timedelta(seconds=2))
            patch.setitem(buckets.TIMEOUTS, "connect_timeout", timedelta(seconds=1))
            buckets._store.cache_clear()
            with pytest.raises(ProductsError, match=rf"the credentials in the environment .*; set {name}"):
                open_source([url])
    buckets._store.cache_clear()


# --- workers without this machine's disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`labeled` by a worker that sees neither the parts' folder nor the files, as one of a cluster does."""
    monkeypatch.setattr(remote, "TOKEN", "nothing")

    def run(source: str, out: str, **options: object) -> None:
        predict([source], PredictOptions(out, str(FIXTURE), device="cpu", **options), engine=InThisProcess(find_adapter(str(FIXTURE))))  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_workers_upload_their_parts_by_themselves(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[..., None], ending: str, folder: bool
) -> None:
    small_shards(monkeypatch, 5)
    for number in range(5):
        s3.put(f"in/{number}.csv", delimited(ROWS[number * 9 :]).encode())
    out = "labeled/" if folder else f"labeled.{ending}"
    options: dict[str, object] = {"output_as": ending, "min_confidence": 0.9}
    labeled("s3://shop/in/", out, review="here.csv", **options)
    came_back: set[str] = set()

    def write(path: Path, files: Mapping[str, bytes]) -> None:
        came_back.update(files)
        write_part(path, files)

    monkeypatch.setattr("catcli.inference.remote_engine.write_part", write)
    elsewhere("s3://shop/in/", f"s3://shop/{out}", review="there.csv", **options)
    assert came_back == {".review"}
    for path in (tmp_path / "labeled").iterdir() if folder else [tmp_path / out]:
        assert s3.get(path.relative_to(tmp_path).as_posix()) == path.read_bytes()
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    assert "catcli-parts" not in str(s3.keys())
    assert not list(tmp_path.glob(".*catcli-parts"))


@pytest.mark.parametrize("by", ["workers", "here"])
def test_a_run_goes_on_from_parts_that_workers_uploaded(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[..., None], caplog: pytest.LogCaptureFixture, by: str
) -> None:
    """Also without a worker; one part that is gone is labeled again, and one that no journal knows is taken away."""
    small_shards(monkeypatch, 5)
    for number in range(4):
        s3.put(f"in/{number}.csv", delimited(ROWS[number * 9 :]).encode())
    labeled("s3://shop/in/", "here.csv")
    with monkeypatch.context() as stopping:
        stopping.setattr(Parts, "commit", stopped_after(9))
        with pytest.raises(KeyboardInterrupt):
            elsewhere("s3://shop/in/", "s3://shop/there.csv")
    parts = list(filter(lambda key: key.startswith(".there.csv.catcli-parts/"), s3.keys()))
    assert len(parts) >= 9
    s3.client.delete_object(Bucket="shop", Key=parts[0])
    s3.put(f"{parts[0].rpartition('/')[0]}/{'0' * 12}-000000-000000", b"of nobody")
    with caplog.at_level("INFO"):
        (elsewhere if by == "workers" else labeled)("s3://shop/in/", "s3://shop/there.csv")
    assert "5 rows that a stopped run had labeled are labeled again" in caplog.text
    assert "going on after" in caplog.text
    assert s3.get("there.csv") == (tmp_path / "here.csv").read_bytes()
    assert s3.keys() == [*(f"in/{number}.csv" for number in range(4)), "there.csv"]


@pytest.mark.parametrize(
    ("out", "prefix"),
    [
        ("s3://shop/a/labeled/", "s3://shop/a/.labeled.catcli-parts/run/"),
        ("s3://shop/labeled.csv", "s3://shop/.labeled.csv.catcli-parts/run/"),
        ("s3://shop/", "s3://shop/.catcli-parts/run/"),
    ],
)
def test_parts_have_a_hidden_place_beside_the_output(out: str, prefix: str) -> None:
    assert parts_prefix(out, "run") == prefix
