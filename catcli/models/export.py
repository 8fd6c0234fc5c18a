"""saved adapter → merged model → ONNX → int8, each past the parity gate."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.exporters.onnx import OnnxConfig, export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

from catcli.adapter.manifest import Variant
from catcli.errors import GateMissed
from catcli.evaluation.metrics import Parity, Quantized, Reduced
from catcli.models.classifier import Classifier
from catcli.models.methods import load, merge, save
from catcli.models.reading import Advance, plain_logits
from catcli.models.training import Trained
from catcli.runtime.blend import Array
from catcli.runtime.cuda import CUDA, cuda_is_there
from catcli.runtime.labeler import PROBE_ROWS, lora_logits
from catcli.runtime.session import Session
from catcli.runtime.tokens import TokenBatch, Tokenizer

OPSET = 18

FILES: dict[Variant, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}

PARITY_ROWS = 256
"""Held-out rows, at most, on which the forms of a model are compared."""

TIMED_ROWS = 64
"""Of them, those on which int8 is timed against fp32, four times over."""

TOLERANCE = 1e-3
"""Logits of one float32 model may differ by this much; rounding gives about 1e-5."""

AGREEMENT = 0.99
"""Share of rows in which the blend has to find the same category with int8."""

REFIT_AGREEMENT = 0.95
"""The same for the refit of a model whose int8 was kept; it is compared on so few rows that one more or less says little."""

GAIN = 1.1
"""Times that int8 has to be as fast as fp32."""

_EXPECTED = (
    # torch 2.9 made another exporter its default; optimum-onnx 0.1 asks for the TorchScript one, and torch says so at every export.
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed\. Please remove usage of this function",
    # The tracer cannot know that a shape that it compares is the same at every size; the parity gate looks at several sizes.
    r"Converting a tensor to a Python (boolean|integer) might cause the trace to be incorrect",
    r"torch\.tensor results are registered as constants in the trace",
    # Causal masks are looked up by position, which is never negative.
    r"Exporting aten::index operator of advanced indexing",
)


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Hide the warnings that are known and harmless, and no other."""
    log = logging.getLogger()
    quiet = _Without("Please consider to run pre-processing before quantization")
    log.addFilter(quiet)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        log.removeFilter(quiet)


class _Without(logging.Filter):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self._text not in record.getMessage()


def to_onnx(classifier: Classifier, file: Path) -> None:
    """Export a merged classifier: inputs ``input_ids`` and ``attention_mask`` *(rows, tokens)*, output ``logits`` *(rows, classes)*."""
    classifier = classifier.cpu().eval()
    with _expected_warnings():
        export(classifier, _onnx_config(classifier), file, opset=OPSET)


class _EncoderOnnxConfig(TextEncoderOnnxConfig):  # type: ignore[misc]  # optimum carries no types
    """T5's encoder by itself."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig


def _onnx_config(classifier: Classifier) -> OnnxConfig:
    """The configuration that Optimum holds for the architecture, with our two inputs and one output in place of its own."""
    if classifier.config.model_type == "t5":
        known: type[OnnxConfig] = _EncoderOnnxConfig  # Optimum's own is of an encoder with its decoder
    else:
        make = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=classifier.config.model_type, task="feature-extraction", library_name="transformers"
        )
        known = type(make(classifier.config))
    axes = {0: "rows", 1: "tokens"}
    ours: type[OnnxConfig] = type(
        f"Catcli{known.__name__}",
        (known,),
        {
            "inputs": property(lambda _: {"input_ids": axes, "attention_mask": axes}),
            "outputs": property(lambda _: {"logits": {0: "rows"}}),
        },
    )
    return ours(classifier.config, task="feature-extraction")


def to_int8(onnx_file: Path, file: Path) -> None:
    """Quantize the weights of every matrix product to int8, a scale per output channel; activations are quantized as they come."""
    with _expected_warnings():
        # Seven bits: without VNNI a product of two full 8-bit values can overflow the 16 bits it is summed in (ONNX Runtime's
        # "Quantize ONNX models", section on x86-64).
        quantize_dynamic(
            onnx_file,
            file,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=bool(weights_beside(onnx_file)),
        )


def to_fp16(onnx_file: Path, file: Path) -> None:
    """Halve the weights and what is computed from them; ids go in as they are and logits come out in float32."""
    large = bool(weights_beside(onnx_file))  # shapes cannot be inferred above 2 GiB; they are needed for odd operators only
    halved = convert_float_to_float16(onnx.load(onnx_file), keep_io_types=True, disable_shape_infer=large)
    onnx.save(halved, file, save_as_external_data=large, location=f"{file.name}_data")


def weights_beside(file: Path) -> tuple[str, ...]:
    """The files beside an ONNX file that hold its weights: protobuf holds no more than 2 GiB. Optimum and ONNX Runtime end them so."""
    return tuple(name for name in (f"{file.name}_data", f"{file.name}.data") if (file.parent / name).exists())


@dataclass(frozen=True)
class Exported:
    """The files that serve: what each gives for the held-out texts, how it compares, and which one serves on a CPU.

    ``probe`` are the logits of the first `PROBE_ROWS` texts by themselves: int8 scales its activations by the batch, so its logits hang on
    the texts beside. ``learned_bytes`` is what the files take that hold what was learned.
    """

    logits: Mapping[Variant, Array]
    probe: Mapping[Variant, Array]
    parity: tuple[Parity, ...]
    int8: Quantized
    learned_bytes: int
    fp16: Reduced | None = None

    @property
    def serves(self) -> Variant:
        """int8 where it was kept, else fp32."""
        return "int8" if "int8" in self.logits else "fp32"


def export_fp32(trained: Trained, texts: Sequence[str], folder: Path, advance: Advance) -> Exported:
    """Save the adapter to ``folder``, read it back, merge it, export it, and compare every form on the first `PARITY_ROWS` of ``texts``.

    Raises:
        GateMissed: the merged or exported model does not give the logits of the saved adapter.
    """
    base, method, tokenizer = trained.base, trained.recipe.method, trained.tokenizer
    size = save(trained.classifier, base, method, folder)
    # What is compared is the adapter as it lies on disk: a head or a matrix that was not saved would show here.
    saved = load(base, method, folder, trained.classifier.head.out_features)
    sample = tokenizer.encode(texts[:PARITY_ROWS])
    reference = plain_logits(saved, tokenizer, sample, lambda done: advance("comparing the saved adapter", done, len(sample)))
    merge(saved, method)
    merged = plain_logits(saved, tokenizer, sample, lambda done: advance("comparing the merged model", done, len(sample)))
    advance("exporting to ONNX", 0, 1)
    to_onnx(saved, folder / FILES["fp32"])
    session = Session(folder / FILES["fp32"], "cpu")
    logits = lora_logits(tokenizer, session, texts)
    parity = (_compare("merged", reference, merged), _compare("ONNX fp32", reference, logits[: len(sample)]))
    for form in parity:
        if not form.largest_difference <= TOLERANCE:  # so that a difference that is no number does not pass
            raise GateMissed(
                f"parity: the {form.form} model's logits differ from the saved adapter's by up to {form.largest_difference:.1e}, more than "
                f"{TOLERANCE:.0e}; nothing was written. Check the installed versions with 'catcli doctor'."
            )
    probe = lora_logits(tokenizer, session, texts[:PROBE_ROWS])
    return Exported({"fp32": logits}, {"fp32": probe}, parity, Quantized(kept=False, reason="not tried", speedup=None), size)


def with_int8(
    exported: Exported,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    folder: Path,
    alike: Callable[[Array, Array], float],
    settled: Quantized | None = None,
) -> Exported:
    """Quantize what `export_fp32` put into ``folder`` for the same ``texts``, and keep it where it labels alike and faster.

    ``alike`` says in what share of rows two matrices of logits lead to the same label: in the blend, for that is what labels. ``settled``
    is what was found for a model of nearly the same rows: its speed is not measured again, and where it did not serve it is not tried.
    """
    if settled is not None and not settled.kept:
        return replace(exported, int8=settled)
    file = folder / FILES["int8"]
    to_int8(folder / FILES["fp32"], file)
    session = Session(file, "cpu")
    tried = _reduced(exported, "int8", session, tokenizer, texts)
    agreement = alike(tried.logits["fp32"], tried.logits["int8"])
    if settled is not None and agreement >= REFIT_AGREEMENT:
        verdict = settled
    else:
        timed = list(tokenizer.batches(tokenizer.encode(texts[:TIMED_ROWS]), session.budget))
        speedup = (settled.speedup if settled else None) or _speedup(session, Session(folder / FILES["fp32"], "cpu"), timed)
        verdict = judge_int8(agreement, speedup)
    if not verdict.kept:
        _remove(file)
        return replace(exported, parity=tried.parity, int8=verdict)
    return replace(tried, int8=verdict)


def with_fp16(
    exported: Exported, tokenizer: Tokenizer, texts: Sequence[str], folder: Path, alike: Callable[[Array, Array], float]
) -> Exported:
    """Where there is a GPU, halve what `export_fp32` put into ``folder``, and keep it where it labels alike there."""
    if not cuda_is_there():
        return exported
    file = folder / FILES["fp16"]
    to_fp16(folder / FILES["fp32"], file)
    session = Session(file)
    if session.provider != CUDA:
        _remove(file)
        return replace(exported, fp16=Reduced(kept=False, reason=f"dropped: a session does not get the GPU ({session.no_cuda})"))
    tried = _reduced(exported, "fp16", session, tokenizer, texts)
    agreement = alike(tried.logits["fp32"], tried.logits["fp16"])
    if agreement < AGREEMENT:
        _remove(file)
        return replace(exported, parity=tried.parity, fp16=Reduced(kept=False, reason=_differs(agreement)))
    return replace(tried, fp16=Reduced(kept=True, reason=f"kept: the same category in {agreement:.2%} of rows on this GPU"))


def _remove(file: Path) -> None:
    for name in (*weights_beside(file), file.name):
        (file.parent / name).unlink()


def _reduced(exported: Exported, variant: Variant, session: Session, tokenizer: Tokenizer, texts: Sequence[str]) -> Exported:
    """With what a smaller form of the model gives for the same texts."""
    logits = lora_logits(tokenizer, session, texts)
    probe = lora_logits(tokenizer, session, texts[:PROBE_ROWS])
    compared = _compare(f"ONNX {variant}", exported.logits["fp32"][:PARITY_ROWS], logits[:PARITY_ROWS])
    return replace(
        exported,
        logits={**exported.logits, variant: logits},
        probe={**exported.probe, variant: probe},
        parity=(*exported.parity, compared),
    )


def judge_int8(agreement: float, speedup: float) -> Quantized:
    """Keep int8 only where it labels alike and this processor gains by it."""
    if agreement < AGREEMENT:
        return Quantized(kept=False, reason=_differs(agreement), speedup=speedup)
    if speedup < GAIN:
        return Quantized(kept=False, reason=f"dropped: {speedup:.2f} x the speed of fp32 on this processor, no gain", speedup=speedup)
    return Quantized(kept=True, reason=f"kept: {speedup:.2f} x the speed of fp32 on this processor", speedup=speedup)


def _differs(agreement: float) -> str:
    return f"dropped: the same category in {agreement:.2%} of rows, below {AGREEMENT:.0%}"


def _compare(form: str, reference: Array, logits: Array) -> Parity:
    return Parity(
        form=form,
        rows=len(reference),
        # Where one of them is no number, they could not differ more.
        largest_difference=float(np.nan_to_num(np.abs(reference - logits), nan=np.inf).max().clip(max=np.finfo(np.float32).max)),
        agreement=float((reference.argmax(1) == logits.argmax(1)).mean()),
    )


def _speedup(fast: Session, slow: Session, batches: Sequence[TokenBatch]) -> float:
    """Times that ``fast`` is as fast as ``slow``: the median over alternating runs, after one of each to warm up."""
    ratios = []
    for repeat in range(4):
        seconds = []
        for session in (fast, slow):
            start = time.perf_counter()
            for batch in batches:
                session.logits(batch)
            seconds.append(time.perf_counter() - start)
        if repeat:
            ratios.append(seconds[1] / seconds[0])
    return float(np.median(ratios))
