"""Blows at any moment, memory that is short, a GPU that fails, two runs at one place: what stood there stands, and a sentence says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from conftest import FIXTURE, catcli
from faults import SIGNALS, strikes
from small_bases import save_base
from tiny import tiny_products
from typer.testing import CliRunner

from catcli.adapter.folder import load_adapter
from catcli.adapter.manifest import READABLE_FORMATS
from catcli.arrays import FloatArray
from catcli.atomic import replace_folder, restore_folder
from catcli.cli.main import app
from catcli.errors import AdapterError, CatcliError, DeviceError
from catcli.inference import session
from catcli.inference.cuda import CUDA_PROVIDER
from catcli.inference.engines import ThreadEngine
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.tokens import TokenBatch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["predict", "fit", "report --html", "adapters export", "adapters remove"])
def test_a_blow_at_any_moment_leaves_the_old_or_the_new_and_loses_no_row(tmp_path: Path, name: str) -> None:
    tally = strikes(len(SIGNALS), 0, tmp_path, [name])[name]
    assert not tally.faults
    assert (tally.struck, tally.whole, tally.lost) == (3, 3, 0)


# --- memory --------------------------------------------------------------------------------------------------------------------------


class OutOfMemoryError(Exception):
    """As ONNX Runtime's are: of a class of its own."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[np.ndarray[Any, Any]], bool], said: str) -> list[int]:
    """Let sessions fail with what ONNX Runtime says; returns the rows of each batch that was computed."""
    computed: list[int] = []
    real = onnxruntime.InferenceSession

    class Failing:
        def __init__(self, *given: object, **more: object) -> None:
            self._session = real(*given, **more)

        def __getattr__(self, name: str) -> object:
            return getattr(self._session, name)

        def run(self, names: list[str], feeds: dict[str, np.ndarray[Any, Any]], options: object = None) -> object:
            ids = feeds["input_ids"]
            if fails(ids):
                raise OutOfMemoryError(said)
            computed.append(len(ids))
            return self._session.run(names, feeds, options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Failing)
    return computed


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    frame = tiny_products().select("title")
    frame.vstack(frame.with_columns(title=pl.col("title") + " again")).write_csv(tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


def test_a_batch_that_memory_is_too_short_for_is_halved_and_said_once(
    monkeypatch: pytest.MonkeyPatch, catalog: Path, tmp_path: Path
) -> None:
    predict([str(catalog)], PredictOptions(str(tmp_path / "whole.csv"), str(FIXTURE), device="cpu"))
    computed = failing(monkeypatch, lambda ids: len(ids) > 16, "Failed to allocate memory for requested buffer of size 4096")
    ran = CliRunner().invoke(app, ["predict", str(catalog), "-o", str(tmp_path / "halved.csv"), "--adapter", str(FIXTURE)])
    assert ran.exit_code == 0, ran.stderr
    whole, halved = (pl.read_csv(tmp_path / name) for name in ("whole.csv", "halved.csv"))
    assert whole["predicted_category"].to_list() == halved["predicted_category"].to_list()
    assert max(computed) <= 16
    assert ran.stderr.count("memory is too short for some batches, which are halved") == 1


def test_halves_run_alone_and_a_text_gets_a_second_try_when_the_other_threads_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU of which other batches hold the memory: it is free again once they have ended."""
    labeler = Labeler(load_adapter(FIXTURE), "cpu", batch_tokens=64)
    real, running, alone = labeler._session._computed, set[int](), list[int]()
    both_run = threading.Barrier(2, timeout=60)

    def computed(batch: TokenBatch, *, shrink: bool = False) -> FloatArray:
        if shrink:
            alone.append(len(running))
            return real(batch, shrink=shrink)
        row = int(batch.rows[0])
        running.add(row)
        try:
            both_run.wait()
            if row:
                return real(batch)
            raise session._OutOfMemory("bad allocation")
        finally:
            running.remove(row)

    monkeypatch.setattr(labeler._session, "_computed", computed)
    batches = [TokenBatch(np.array([[101, 102]]), np.ones((1, 2), np.int64), np.array([row])) for row in range(2)]
    with ThreadPoolExecutor(2) as pool:
        shapes = [logits.shape for logits in pool.map(labeler._session.logits, batches)]
    assert shapes == [(1, len(labeler.categories))] * 2
    assert alone == [0]


def test_a_session_on_a_gpu_is_opened_again_for_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is played by the CPU: what a session that ran out of memory holds is never free, and a new one has room for 16 texts."""
    labeler, opened = Labeler(load_adapter(FIXTURE), "cpu"), list[object]()
    first, real_bound, real_open = labeler._session._session, session.run_bound, session._open_session

    def bound(used: object, feeds: dict[str, np.ndarray[Any, Any]], device: str, *_: object) -> FloatArray:
        assert device == "cuda"
        if used is first or len(feeds["input_ids"]) > 16:
            raise OutOfMemoryError("Failed to allocate memory for requested buffer of size 4096")
        return real_bound(used, feeds, "cpu")

    def reopened(file: Path, options: object, *, cuda: bool) -> tuple[object, str]:
        assert cuda
        assert not hasattr(labeler._session, "_session")  # its memory is free by now
        opened.append(OnGpu(real_open(file, options, cuda=False)[0]))
        return opened[-1], ""

    class OnGpu:
        def __init__(self, opened: object) -> None:
            self._opened = opened

        def __getattr__(self, name: str) -> object:
            return getattr(self._opened, name)

        def get_providers(self) -> list[str]:
            return [CUDA_PROVIDER, session.CPU_PROVIDER]

    texts = tiny_products()["title"].to_list() * 4
    expected = labeler.lora(labeler.tokenize(texts))
    monkeypatch.setattr(labeler._session, "provider", CUDA_PROVIDER)
    monkeypatch.setattr(labeler._session, "budget", 4096)
    monkeypatch.setattr(session, "run_bound", bound)
    monkeypatch.setattr(session, "_open_session", reopened)
    assert np.abs(labeler.lora(labeler.tokenize(texts)) - expected).max() < 1e-4
    assert (len(opened), labeler._session.halvings() > 0) == (1, True)


def test_memory_that_is_too_short_for_one_text_is_a_sentence(monkeypatch: pytest.MonkeyPatch, catalog: Path, tmp_path: Path) -> None:
    labeler = Labeler(load_adapter(FIXTURE), "cpu")
    monkeypatch.setattr(labeler._session, "_session", None)
    monkeypatch.setattr(labeler._session, "_computed", lambda _, **__: (_ for _ in ()).throw(session._OutOfMemory("bad allocation")))
    with pytest.raises(
        CatcliError, match=r"memory is too short for one text of \d+ tokens on CPU.*; free some and run the same command again"
    ):
        predict([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu"), engine=ThreadEngine(labeler))
    assert not (tmp_path / "out.csv").exists()


def test_a_gpu_that_fails_midway_is_named(monkeypatch: pytest.MonkeyPatch, catalog: Path, tmp_path: Path) -> None:
    calls = iter(range(1000))
    failing(monkeypatch, lambda _: next(calls) > 3, "CUDA failure 719: unspecified launch failure ; GPU=0")
    with pytest.raises(
        DeviceError, match=r"the GPU failed while it labeled \(CUDA failure 719.*; 'catcli doctor' shows if it still answers"
    ):
        predict([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]


CUBLAS = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, onnxruntime::common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cublasStatus_t; "
    "bool THRW = true; SUCCTYPE = cublasStatus_t; std::conditional_t<THRW, void, common::Status> = void] CUBLAS failure 1: "
    "CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=shop"
)
"""As an H200 said it with 1.5 GB of memory left."""


def test_a_library_of_the_gpu_that_lacks_memory_gets_smaller_batches(
    monkeypatch: pytest.MonkeyPatch, catalog: Path, tmp_path: Path
) -> None:
    line = ([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu"))
    failing(monkeypatch, lambda ids: len(ids) > 2, CUBLAS)
    done = predict(*line)
    assert (done.rows, done.halved > 0) == (240, True)
    failing(monkeypatch, lambda _: True, CUBLAS)
    (tmp_path / "out.csv").unlink()
    with pytest.raises(DeviceError, match=r"the GPU failed while it labeled \(CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0"):
        predict(*line)


# --- two runs, and none --------------------------------------------------------------------------------------------------------------


def test_of_two_fits_to_one_folder_the_second_is_told(tmp_path: Path) -> None:
    tiny_products().write_csv(tmp_path / "products.csv")
    save_base("bert", tmp_path / "base")
    line = ("fit", "products.csv", "-o", "made", "--base", "base", "--rank", "2", "--epochs", "2", "--device", "cpu")
    command = [sys.executable, "-m", "catcli", *line]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / ".made.lock").exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = catcli(*line, cwd=tmp_path, COLUMNS="200")
        assert second.returncode == 1
        assert second.stderr.endswith("error: another catcli is fitting made; wait until it has ended, or choose another folder with -o.\n")
        assert first.wait() == 0
    assert load_adapter(tmp_path / "made").verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "made", "products.csv"]


def test_an_exchange_that_a_kill_left_half_done_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two folders cannot be exchanged at once the old one steps aside first."""
    monkeypatch.setattr("catcli.atomic._exchange_names", lambda *_: False)
    old, new, aside = tmp_path / "made", tmp_path / "new", tmp_path / ".made.old"
    for folder, content in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "file").write_text(content)
    old.rename(aside)  # as far as the kill let it come
    restore_folder(old, aside)
    assert (old / "file").read_text() == "old"
    replace_folder(new, old, aside)
    assert (old / "file").read_text() == "new"
    assert (aside / "file").read_text() == "old"


def test_ctrl_c_ends_a_run_that_waits_for_a_silent_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        line = [sys.executable, "-m", "catcli", "predict", "-", "-o", "out.csv", "--adapter", str(FIXTURE)]
        with subprocess.Popen(line, cwd=tmp_path, stdin=reading, stderr=subprocess.PIPE, text=True) as run:
            time.sleep(3)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=30)[1]
    finally:
        os.close(reading)
        os.close(writing)
    assert run.returncode == 130
    assert said.startswith("error: interrupted")
    assert not list(tmp_path.iterdir())


# --- formats -------------------------------------------------------------------------------------------------------------------------


def test_an_adapter_of_format_4_loads_and_labels(catalog: Path, tmp_path: Path) -> None:
    """The fixture was written when 4 was the newest: it has to be read for as long as it is among `adapters.READ`."""
    assert load_adapter(FIXTURE).manifest.format == 4
    assert 4 in READABLE_FORMATS
    done = predict([str(catalog)], PredictOptions(str(tmp_path / "out.csv"), str(FIXTURE), device="cpu"))
    assert done.rows == 240


@pytest.mark.parametrize(("version", "without"), [(2, ("revision", "blocks", "data")), (3, ("blocks",))])
def test_adapters_of_older_formats_load_and_label_the_same(catalog: Path, tmp_path: Path, version: int, without: tuple[str, ...]) -> None:
    old = Path(shutil.copytree(FIXTURE, tmp_path / "old"))
    told = json.loads((old / "adapter.json").read_text())
    told["format"] = version
    for name in without:
        for part in (told["base"], *told["variants"].values()):
            part.pop(name, None)
    (old / "adapter.json").write_text(json.dumps(told))
    for name, folder in (("old.csv", old), ("new.csv", FIXTURE)):
        predict([str(catalog)], PredictOptions(str(tmp_path / name), str(folder), device="cpu"))
    assert (tmp_path / "old.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()


def test_a_format_that_is_read_no_more_names_the_line_that_makes_it_anew(tmp_path: Path) -> None:
    (tmp_path / "adapter.json").write_text('{"format": 1}')
    with pytest.raises(AdapterError, match=r"format 1 .* 'catcli fit products\.csv --recipe .* --force' makes it again"):
        load_adapter(tmp_path)
