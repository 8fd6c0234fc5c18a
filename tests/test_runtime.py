"""Tokens, sessions, labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import Shop
from hypothesis import given, settings
from hypothesis import strategies as st

from catcli.errors import AdapterError, DeviceError
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference import cuda
from catcli.inference import labeler as labeling
from catcli.inference import session as runtime_session
from catcli.inference.cuda import has_gpu
from catcli.inference.labeler import Labeler
from catcli.inference.session import Session, run_bound
from catcli.inference.tokens import Tokenizer
from catcli.models.bases import MINILM

TOKENIZER = Tokenizer(MINILM.tokenizer, 16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(ids: list[list[int]], budget: int) -> None:
    batches = list(TOKENIZER.batches(ids, budget))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(ids)))
    for batch in batches:
        assert batch.ids.size <= budget or len(batch.rows) == 1
        assert [[number for number, real in zip(*pair, strict=True) if real] for pair in zip(batch.ids, batch.mask, strict=True)] == [
            ids[row] for row in batch.rows
        ]


def test_texts_are_cut_at_the_longest_and_odd_ones_survive() -> None:
    lengths = [len(ids) for ids in TOKENIZER.encode(["word " * 100, "", "\ud800 lone", "\x00", "🎁"])]
    assert lengths[0] == 16
    assert min(lengths) >= 2


def test_equal_texts_get_equal_labels_whatever_stands_beside_them(shop: Shop) -> None:
    labeler = Labeler(shop.fitted.adapter, "cpu", "fp32")  # int8 scales its activations by the batch
    texts = ["arabica coffee beans 1kg", "hammer drill 18V", "arabica coffee beans 1kg", "", "hammer drill 18V"]
    together, alone = labeler.label(texts), [labeler.label([text]) for text in texts]
    assert together.classes[:, 0].tolist() == [labels.classes[0, 0] for labels in alone]
    assert np.allclose(together.confidences[:, 0], [labels.confidences[0, 0] for labels in alone], atol=1e-4)
    assert together.confidences[0, 0] == together.confidences[2, 0]


def test_slabs_change_no_label(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = Labeler(shop.fitted.adapter, "cpu", "fp32")
    texts = [f"{word} {number}" for number in range(10) for word in ("espresso", "shampoo", "drill", "mug")]
    whole = labeler.label(texts, LabelChoice(3))
    monkeypatch.setattr(labeling, "MAX_CELLS", 12)
    parts = labeler.label(texts, LabelChoice(3))
    assert np.array_equal(whole.classes, parts.classes)
    assert np.allclose(whole.confidences, parts.confidences, atol=1e-4)


def test_confidences_fall_and_more_alternatives_than_categories_are_all(shop: Shop) -> None:
    labels = Labeler(shop.fitted.adapter, "cpu").label(["mug"], LabelChoice(99))
    assert labels.classes.shape == (1, 4)
    assert np.all(np.diff(labels.confidences[0]) <= 0)
    assert labels.confidences.sum() == pytest.approx(1, abs=1e-5)


def test_a_model_that_computes_something_else_here_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeling, "MAX_FP32_DIFFERENCE", -1.0)
    with pytest.raises(AdapterError, match=r"gives other logits here \(CPUExecutionProvider\) than where it was made; fit it again"):
        Labeler(shop.fitted.adapter, "cpu", "fp32")


def test_a_file_that_is_no_model_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(AdapterError, match=r"model\.onnx cannot be loaded by ONNX Runtime: .*; fit the adapter again\."):
        Session(tmp_path / "model.onnx", "cpu")


def test_cuda_that_was_asked_for_and_not_given_stops_the_run(shop: Shop) -> None:
    if has_gpu():
        pytest.skip("this machine has an NVIDIA device")
    with pytest.raises(DeviceError, match="--device cuda: ONNX Runtime gave CPUExecutionProvider instead; 'catcli doctor' shows what is"):
        Labeler(shop.fitted.adapter, "cuda")


def test_bound_inputs_and_outputs_give_the_logits_of_a_plain_run(shop: Shop) -> None:
    session = onnxruntime.InferenceSession(str(shop.fitted.adapter.file("model.onnx")), providers=["CPUExecutionProvider"])
    for batch in TOKENIZER.batches(TOKENIZER.encode(["mug", "hammer drill 18V", "arabica coffee beans"]), 24):
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask}
        assert np.array_equal(run_bound(session, feeds, "cpu"), session.run(["logits"], feeds)[0])


# --- a GPU, as far as a machine without one shows it --------------------------------------------------------------------------------------


def test_cuda_libraries_are_looked_for_in_every_folder_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name / "nvidia" / part / "lib" for name, part in (("one", "cu13"), ("other", "cudnn"))]
    for place in places:
        place.mkdir(parents=True)
        monkeypatch.syspath_prepend(place.parents[2])
    asked: list[str | None] = []

    def preload(directory: str | None = None) -> None:
        asked.append(directory)
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    said = cuda.load_cuda_libraries.__wrapped__()
    assert [place for place in asked if place is None or place.startswith(str(tmp_path))] == [*map(str, places), None]
    assert said == "Failed to load libcudnn.so.9"


def test_a_gpu_that_is_not_got_is_said_with_its_cause_and_nothing_is_printed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if has_gpu():
        pytest.skip("this machine has an NVIDIA device")
    monkeypatch.setattr(runtime_session, "has_cuda", lambda: True)
    monkeypatch.setattr(runtime_session, "load_cuda_libraries", lambda: "Failed to load libcudnn.so.9")
    labeler = Labeler(shop.fitted.adapter, "auto")
    (note,) = labeler.notes
    assert note.startswith("ONNX Runtime did not get the GPU (")
    with pytest.raises(DeviceError, match=r"ONNX Runtime gave CPUExecutionProvider instead \(.+\); 'catcli doctor'"):
        Session(shop.fitted.adapter.file("model.onnx"), "cuda")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_is_not_there(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not has_gpu()


@pytest.mark.parametrize(("count", "names", "expected"), [(2, None, ["0", "1"]), (1, "GPU-a, 7,-1", ["GPU-a"]), (0, None, [])])
def test_gpus_have_the_names_by_which_a_process_is_given_one(
    monkeypatch: pytest.MonkeyPatch, count: int, names: str | None, expected: list[str]
) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuInit(self, _: int) -> int:  # noqa: N802  # CUDA's name
            return 0 if count else 100

        def cuDeviceGetCount(self, pointer: object) -> int:  # noqa: N802  # CUDA's name
            pointer._obj.value = count  # type: ignore[attr-defined]  # what byref refers to
            return 0

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr("ctypes.CDLL", Driver)
    assert cuda.visible_gpus() == expected


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(policy: str | None) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = inherited if policy is None else {**inherited, "OMP_WAIT_POLICY": policy}
    code = "import os, sys, catcli.__main__; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [policy or "PASSIVE", "False"]
