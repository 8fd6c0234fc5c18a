"""Labeling in other processes and on a Ray cluster: the very bytes of a run in this process, whoever is lost on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import psutil
import pytest
from conftest import FIXTURE, catcli, small_shards, stopped_after
from elsewhere import InThisProcess
from s3 import server

from catcli.adapter.store import find_adapter
from catcli.config import DEFAULT_MAX_CHANGE
from catcli.data.io.parts import Parts
from catcli.data.io.source import open_source
from catcli.errors import CatcliError, DeviceError
from catcli.inference import process_engine, remote
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.shards import ShardWork, SpanGroup, SpanWork

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="labeling on a cluster is Ray's: pip install '.[ray]'")

ENGINES = ("processes", "ray")


def workers(engine: str) -> tuple[str, ...]:
    return ("--engine", engine, "--workers", "2", "--device", "cpu")


WORKERS = workers("ray")
KEEP = ("--keep", "id,title")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40,000 rows, some alike, some without text: as one file of ten shards, since its rows are long, and in two and in 16 files."""
    folder = tmp_path_factory.mktemp("catalog")
    chosen = random.Random(3)
    words = [f"word{number}" for number in range(3000)]
    titles = [" ".join(chosen.choices(words, k=chosen.randint(0, 14))) for _ in range(40_000)]
    frame = pl.DataFrame({"id": range(len(titles)), "title": titles})
    (folder / "parts").mkdir()
    frame[:15_000].write_csv(folder / "parts" / "a.csv")
    frame[15_000:].write_csv(folder / "parts" / "b.csv")
    frame.with_columns(pad=pl.lit("x" * 8192)).write_parquet(folder / "catalog.parquet")
    (folder / "many").mkdir()
    for number in range(16):
        frame[number * 2_500 : (number + 1) * 2_500].write_csv(folder / "many" / f"{number:02}.csv")
    return folder


@pytest.fixture(scope="module")
def local(catalog: Path) -> bytes:
    """What this machine makes of the catalog."""
    predict([str(catalog / "catalog.parquet")], PredictOptions(str(catalog / "local.csv"), str(FIXTURE), device="cpu", keep="id,title"))
    return (catalog / "local.csv").read_bytes()


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def started(catalog: Path, out: Path, engine: str) -> psutil.Popen:
    line = [
        sys.executable,
        "-m",
        "catcli",
        "predict",
        str(catalog / "catalog.parquet"),
        "-o",
        str(out),
        "--adapter",
        str(FIXTURE),
        *KEEP,
        *workers(engine),
    ]
    return psutil.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"})


def title(process: psutil.Process) -> str:
    """What a process of Ray calls itself; nothing for one that has gone."""
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.Error:
        return ""


def wait_for_part(run: psutil.Popen, out: Path) -> None:
    """Until the first parts of an output are noted in its journal."""
    journal = out.with_name(f".{out.name}.catcli-parts") / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) > 1):
        assert run.poll() is None, "the run was over before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- the same rows -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_two_workers_give_the_bytes_of_one_process(catalog: Path, local: bytes, tmp_path: Path, engine: str) -> None:
    asked = (*KEEP, *workers(engine), "--json")
    ran = catcli("predict", catalog / "catalog.parquet", "-o", "out.csv", "--adapter", FIXTURE, *asked, cwd=tmp_path, check=True)
    assert (tmp_path / "out.csv").read_bytes() == local
    assert json.loads(ran.stdout)["rows"] == 40_000
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_read_files_by_themselves(catalog: Path, tmp_path: Path, engine: str) -> None:
    asked = ("--adapter", FIXTURE, "--min-confidence", "0.4")
    catcli("predict", catalog / "many", "-o", "here.csv", *asked, "--device", "cpu", "--review", "a.csv", cwd=tmp_path, check=True)
    catcli("predict", catalog / "many", "-o", "there.csv", *asked, "--review", "b.csv", *workers(engine), cwd=tmp_path, check=True)
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_worker_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("title\nmug\n")
    for name in ("socket", "polars", "catcli"):
        (tmp_path / f"{name}.py").write_text("open('planted', 'w')")
    command = Path(sys.executable).with_name("catcli")  # python -m would look there by itself
    line: list[str | Path] = [command, "predict", "some.csv", "-o", "out.csv", "--adapter", FIXTURE, *workers("processes")]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "planted").exists()


def test_processes_take_turns_on_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA shows to each; here there is none, so they end up on the CPU and say so."""
    monkeypatch.setattr(process_engine, "has_cuda", lambda: True)
    monkeypatch.setattr(process_engine, "visible_gpus", lambda: ["0", "GPU-b"])
    monkeypatch.setattr(process_engine, "available_cores", lambda: 32)
    before = psutil.Process().children()  # of other tests, ended ones among them
    engine = process_engine.ProcessEngine(find_adapter(str(FIXTURE)), "auto", "fp32", None, 3, DEFAULT_MAX_CHANGE)
    try:
        workers = [child for child in psutil.Process().children() if child not in before]
        assert sorted(worker.environ()["CUDA_VISIBLE_DEVICES"] for worker in workers) == ["0", "0", "GPU-b"]
        assert len(engine.label(["steel hammer"]).confidences) == 1
    finally:
        engine.close()


@pytest.mark.parametrize("hidden", ["files", "parts"])
def test_what_a_worker_does_not_see_is_read_and_written_here(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """As on another machine, without this one's disk."""
    options = PredictOptions(str(tmp_path / "here.csv"), str(FIXTURE), device="cpu", min_confidence=0.4, review=str(tmp_path / "a.csv"))
    predict([str(catalog / "many")], options)
    adapter = find_adapter(str(FIXTURE))
    monkeypatch.setattr(InThisProcess, "states", [None] * 16) if hidden == "files" else monkeypatch.setattr(remote, "TOKEN", "nothing")
    engine = InThisProcess(adapter)
    there = replace(options, output=str(tmp_path / "there.csv"), review=str(tmp_path / "b.csv"))
    predict([str(catalog / "many")], there, engine=engine)
    assert engine.asked == ({SpanGroup, SpanWork, ShardWork} if hidden == "files" else {SpanGroup})
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("first", ["here", "there"])
def test_a_run_over_row_groups_goes_on_with_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Within a span, too, whose later shards take over what its first one labeled."""
    small_shards(monkeypatch, 64)
    monkeypatch.setattr("catcli.data.io.source.SPAN_ROWS", 200)
    monkeypatch.setattr("catcli.inference.shards.MIN_KNOWN_ROWS", 16)
    titles = [f"mug {number % 90}" for number in range(1_500)]
    pl.DataFrame({"title": titles}).write_parquet(tmp_path / "in.parquet", row_group_size=100)
    assert [span.rows for span in open_source([str(tmp_path / "in.parquet")]).spans] == [200] * 7 + [100]
    whole = PredictOptions(str(tmp_path / "whole.csv"), str(FIXTURE), device="cpu")
    expected = predict([str(tmp_path / "in.parquet")], whole)
    options = replace(whole, output=str(tmp_path / "out.csv"))
    engines = {"here": None, "there": InThisProcess(find_adapter(str(FIXTURE)))}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "commit", stopped_after(6))
        predict([str(tmp_path / "in.parquet")], options, engine=engines.pop(first))
    (engine,) = engines.values()
    done = predict([str(tmp_path / "in.parquet")], replace(options, resume=True), engine=engine)
    assert done.resumed > 0
    assert (done.rows, done.labeled, done.categories) == (expected.rows, expected.labeled, expected.categories)
    assert expected.labeled < 1_500
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_parts_keep_their_order_and_are_written_as_parts(catalog: Path, tmp_path: Path) -> None:
    asked = ("--adapter", FIXTURE, "--device", "cpu", "--top-k", "2", "--min-confidence", "0.3", "--keep", "id")
    catcli("predict", catalog / "parts", "-o", "here/", *asked, "--review", "here.csv", cwd=tmp_path, check=True)
    catcli("predict", catalog / "parts", "-o", "there/", *asked, "--review", "there.csv", *WORKERS, cwd=tmp_path, check=True)
    assert [path.name for path in sorted((tmp_path / "there").iterdir())] == ["a.csv", "b.csv"]
    for name in ("a.csv", "b.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_an_earlier_output_is_taken_over(catalog: Path, local: bytes, tmp_path: Path) -> None:
    (tmp_path / "earlier.csv").write_bytes(local)
    head = pl.read_parquet(catalog / "catalog.parquet").head(1000)
    head.with_columns(title=pl.col("title") + pl.when(pl.col("id") % 10 == 0).then(pl.lit(" new")).otherwise(pl.lit(""))).write_csv(
        tmp_path / "today.csv"
    )
    asked = ("--adapter", FIXTURE, "--device", "cpu", "--previous", "earlier.csv", "--input-format", "csv")
    catcli("predict", "today.csv", "-o", "here.csv", *asked, cwd=tmp_path, check=True)
    catcli("predict", "today.csv", "-o", "there.csv", *asked, *WORKERS, cwd=tmp_path, check=True)
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_from_a_bucket_into_a_bucket(catalog: Path, local: bytes, tmp_path: Path) -> None:
    with server() as running:
        running.client.upload_file(str(catalog / "catalog.parquet"), "shop", "in/catalog.parquet")
        asked = ("predict", "s3://shop/in/catalog.parquet", "-o", "s3://shop/out.csv", *KEEP, *WORKERS)
        catcli(*asked, "--adapter", FIXTURE, cwd=tmp_path, check=True, **running.environment)
        assert running.client.get_object(Bucket="shop", Key="out.csv")["Body"].read() == local
    logs = [file.read_bytes() for file in Path("/tmp/ray/session_latest/logs").resolve().rglob("*") if file.is_file()]
    assert logs
    assert not any(running.environment["AWS_SECRET_ACCESS_KEY"].encode() in log for log in logs)


# --- what is lost on the way ---------------------------------------------------------------------------------------------------------


def test_a_worker_of_a_cluster_that_is_killed_costs_no_row(catalog: Path, local: bytes, tmp_path: Path) -> None:
    run = started(catalog, tmp_path / "out.csv", "ray")
    wait_for_part(run, tmp_path / "out.csv")
    next(process for process in run.children(recursive=True) if title(process).startswith("ray::_RayWorker")).kill()
    said = run.communicate()[1]
    assert run.returncode == 0, said
    assert (tmp_path / "out.csv").read_bytes() == local
    assert "a worker was lost; another has taken its place" in said


def test_a_process_that_is_killed_ends_the_run_in_a_sentence_and_no_part_is_lost(catalog: Path, local: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    run = started(catalog, out, "processes")
    wait_for_part(run, out)
    next(process for process in run.children() if "catcli.child_process" in process.cmdline()).kill()
    said = run.communicate()[1]
    assert run.returncode == 1, said
    assert "a process that labels ended by signal 9; is there memory enough? Fewer --workers take less." in said
    assert "labeled rows are kept: the same command continues." in said
    ran = catcli("predict", catalog / "catalog.parquet", "-o", out, "--adapter", FIXTURE, *KEEP, *workers("processes"), cwd=tmp_path)
    assert (ran.returncode, "going on after" in ran.stderr, out.read_bytes() == local) == (0, True, True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_takes_its_workers_along_and_goes_on_here(
    catalog: Path, local: bytes, tmp_path: Path, stop: signal.Signals, engine: str
) -> None:
    out = tmp_path / "out.csv"
    run = started(catalog, out, engine)
    wait_for_part(run, out)
    # Ray's own agents ask for a minute after a cluster that was killed, and then go.
    others = [process for process in run.children(recursive=True) if "Agent" not in title(process)]
    run.send_signal(stop)
    said = run.communicate()[1]
    assert run.returncode == (-stop if stop == signal.SIGKILL else 128 + stop), said
    assert not out.exists()
    assert not psutil.wait_procs(others, timeout=60)[1]
    line = ("predict", catalog / "catalog.parquet", "-o", out, "--adapter", FIXTURE, *KEEP, "--device", "cpu", "--resume")
    ran = catcli(*line, cwd=tmp_path, check=True)
    assert out.read_bytes() == local
    assert "going on after" in ran.stderr


# --- sentences -----------------------------------------------------------------------------------------------------------------------


def sentence(ask: Callable[[], object]) -> str:
    with pytest.raises(CatcliError) as raised:
        ask()
    return str(raised.value)


def test_what_is_wrong_with_a_row_is_said_as_it_is_here(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("title\n" + "mug\n" * 20_000 + "one,two\n")

    def ask(engine: str) -> str:
        return sentence(lambda: predict([str(bad)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu", engine=engine)))

    assert ask("ray") == ask("processes") == ask("local")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_a_cluster_that_nobody_runs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    (tmp_path / "some.csv").write_text("title\nmug\n")
    asked = PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), engine="ray")
    said = sentence(lambda: predict([str(tmp_path / "some.csv")], asked))
    assert said.startswith(f"RAY_ADDRESS is 127.0.0.1:{port}, where no Ray cluster answers")


def test_without_the_extra_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "some.csv").write_text("title\nmug\n")
    asked = PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), engine="ray")
    said = sentence(lambda: predict([str(tmp_path / "some.csv")], asked))
    assert said == "--engine ray takes one package more: pip install 'catcli[ray]'."


def test_a_cluster_without_a_gpu_says_so(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("title\nmug\n")
    with pytest.raises(DeviceError, match="the Ray cluster has no GPU"):
        predict([str(tmp_path / "some.csv")], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), engine="ray", device="cuda"))
