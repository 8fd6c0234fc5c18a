"""saved adapter → merged model → ONNX → int8, each past the parity gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catcli.adapter.manifest import Variant
from catcli.arrays import FloatArray
from catcli.errors import GateMissed
from catcli.evaluation.fit_metrics import Int8Decision, Parity, VariantDecision
from catcli.export.exporters import to_onnx
from catcli.export.onnx_files import MODEL_FILES, external_weight_files, to_fp16, to_int8
from catcli.export.torch_inference import torch_logits
from catcli.export.trained_model import TrainedModel
from catcli.inference.cuda import CUDA_PROVIDER, has_cuda
from catcli.inference.labeler import PROBE_ROWS, encoder_logits
from catcli.inference.session import Session
from catcli.inference.tokens import TokenBatch, Tokenizer
from catcli.logs import Advance
from catcli.models.methods import load_model, merge_model, save_model

PARITY_ROWS = 256
"""Held-out rows, at most, on which the forms of a model are compared."""

MIN_GPU_ROWS = 2_000
"""Held-out rows above which a GPU scores them where there is one: a session there takes seconds to open."""

TIMED_ROWS = 64
"""Of them, those on which int8 is timed against fp32, four times over."""

MAX_LOGIT_DIFFERENCE = 1e-3
"""Logits of one float32 model may differ by this much; rounding gives about 1e-5."""

MIN_AGREEMENT = 0.99
"""Share of rows in which the blend has to find the same category with int8."""

MIN_REFIT_AGREEMENT = 0.95
"""The same for the refit of a model whose int8 was kept; it is compared on so few rows that one more or less says little."""

MIN_SPEEDUP = 1.1
"""Times that int8 has to be as fast as fp32."""


@dataclass(frozen=True)
class ExportedModel:
    """The files that serve: what each gives for the held-out texts, how it compares, and which one serves on a CPU.

    ``probe`` are the logits of ``probe_texts``, the first `PROBE_ROWS` of the texts, by themselves: int8 scales its activations by the
    batch, so its logits depend on the other texts of the batch. ``learned_bytes`` is what the files take that hold what was learned.
    """

    logits: Mapping[Variant, FloatArray]
    probe_texts: Sequence[str]
    probe: Mapping[Variant, FloatArray]
    parity: tuple[Parity, ...]
    int8: Int8Decision
    learned_bytes: int
    fp16: VariantDecision | None = None

    @property
    def ships(self) -> Variant:
        """int8 where it was kept, else fp32."""
        return "int8" if "int8" in self.logits else "fp32"


def export_fp32(trained: TrainedModel, texts: Sequence[str], folder: Path, advance: Advance) -> ExportedModel:
    """Save the adapter to ``folder``, read it back, merge it, export it, and compare every form on the first `PARITY_ROWS` of ``texts``.

    Raises:
        GateMissed: the merged or exported model does not give the logits of the saved adapter.
    """
    base, method, tokenizer = trained.base, trained.recipe.method, trained.tokenizer
    size = save_model(trained.classifier, base, method, folder)
    # What is compared is the adapter as it lies on disk: a head or a matrix that was not saved would show here.
    saved = load_model(base, method, folder, trained.classifier.head.out_features)
    sample = tokenizer.encode(texts[:PARITY_ROWS])
    reference = torch_logits(saved, tokenizer, sample, lambda done: advance("comparing the saved adapter", done, len(sample)))
    merge_model(saved, method)
    merged = torch_logits(saved, tokenizer, sample, lambda done: advance("comparing the merged model", done, len(sample)))
    advance("exporting to ONNX", 0, 1)
    to_onnx(saved, folder / MODEL_FILES["fp32"])
    session = Session(folder / MODEL_FILES["fp32"], "cpu")
    on_gpu = len(texts) > MIN_GPU_ROWS and trained.device != "cpu" and has_cuda()
    logits = encoder_logits(tokenizer, Session(folder / MODEL_FILES["fp32"]) if on_gpu else session, texts)
    if on_gpu:  # in TF32, which keeps three digits: what is compared is computed on the CPU
        logits[: len(sample)] = encoder_logits(tokenizer, session, texts[: len(sample)])
    parity = (_compare("merged", reference, merged), _compare("ONNX fp32", reference, logits[: len(sample)]))
    for form in parity:
        if not form.largest_difference <= MAX_LOGIT_DIFFERENCE:  # so that a difference that is not a number does not pass
            raise GateMissed(
                f"parity: the {form.form} model's logits differ from the saved adapter's by up to {form.largest_difference:.1e}, more than "
                f"{MAX_LOGIT_DIFFERENCE:.0e}; nothing was written. Check the installed versions with 'catcli doctor'."
            )
    probe = encoder_logits(tokenizer, session, texts[:PROBE_ROWS])
    not_tried = Int8Decision(kept=False, reason="not tried", speedup=None)
    return ExportedModel({"fp32": logits}, texts[:PROBE_ROWS], {"fp32": probe}, parity, not_tried, size)


def add_int8(
    exported: ExportedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    folder: Path,
    compare: Callable[[FloatArray, FloatArray], float],
    settled: Int8Decision | None = None,
) -> ExportedModel:
    """Quantize what `export_fp32` put into ``folder`` for the same ``texts``, and keep it where it labels alike and faster.

    ``compare`` says in what share of rows two matrices of logits lead to the same label: in the blend, for that is what labels. ``settled``
    is what was found for a model of nearly the same rows: its speed is not measured again, and where it did not serve it is not tried.
    """
    if settled is not None and not settled.kept:
        return replace(exported, int8=settled)
    file = folder / MODEL_FILES["int8"]
    to_int8(folder / MODEL_FILES["fp32"], file)
    session = Session(file, "cpu")
    tried = _with_variant(exported, "int8", session, tokenizer, texts)
    agreement = compare(tried.logits["fp32"], tried.logits["int8"])
    if settled is not None and agreement >= MIN_REFIT_AGREEMENT:
        verdict = settled
    else:
        timed = list(tokenizer.batches(tokenizer.encode(texts[:TIMED_ROWS]), session.budget))
        speedup = (settled.speedup if settled else None) or _speedup(session, Session(folder / MODEL_FILES["fp32"], "cpu"), timed)
        verdict = decide_int8(agreement, speedup)
    if not verdict.kept:
        _remove(file)
        return replace(exported, parity=tried.parity, int8=verdict)
    return replace(tried, int8=verdict)


def add_fp16(
    exported: ExportedModel, tokenizer: Tokenizer, texts: Sequence[str], folder: Path, compare: Callable[[FloatArray, FloatArray], float]
) -> ExportedModel:
    """Where there is a GPU, halve what `export_fp32` put into ``folder``, and keep it where it labels alike there."""
    if not has_cuda():
        return exported
    file = folder / MODEL_FILES["fp16"]
    to_fp16(folder / MODEL_FILES["fp32"], file)
    session = Session(file)
    if session.provider != CUDA_PROVIDER:
        _remove(file)
        return replace(exported, fp16=VariantDecision(kept=False, reason=f"dropped: a session does not get the GPU ({session.no_cuda})"))
    tried = _with_variant(exported, "fp16", session, tokenizer, texts)
    agreement = compare(tried.logits["fp32"], tried.logits["fp16"])
    if agreement < MIN_AGREEMENT:
        _remove(file)
        return replace(exported, parity=tried.parity, fp16=VariantDecision(kept=False, reason=_differs(agreement)))
    return replace(tried, fp16=VariantDecision(kept=True, reason=f"kept: the same category in {agreement:.2%} of rows on this GPU"))


def _remove(file: Path) -> None:
    for name in (*external_weight_files(file), file.name):
        (file.parent / name).unlink()


def _with_variant(exported: ExportedModel, variant: Variant, session: Session, tokenizer: Tokenizer, texts: Sequence[str]) -> ExportedModel:
    """With what a smaller form of the model gives for the same texts."""
    logits = encoder_logits(tokenizer, session, texts)
    probe = encoder_logits(tokenizer, session, exported.probe_texts)
    compared = _compare(f"ONNX {variant}", exported.logits["fp32"][:PARITY_ROWS], logits[:PARITY_ROWS])
    return replace(
        exported,
        logits={**exported.logits, variant: logits},
        probe={**exported.probe, variant: probe},
        parity=(*exported.parity, compared),
    )


def decide_int8(agreement: float, speedup: float) -> Int8Decision:
    """Keep int8 only where it labels alike and this processor gains by it."""
    if agreement < MIN_AGREEMENT:
        return Int8Decision(kept=False, reason=_differs(agreement), speedup=speedup)
    if speedup < MIN_SPEEDUP:
        return Int8Decision(kept=False, reason=f"dropped: {speedup:.2f} x the speed of fp32 on this processor, no gain", speedup=speedup)
    return Int8Decision(kept=True, reason=f"kept: {speedup:.2f} x the speed of fp32 on this processor", speedup=speedup)


def _differs(agreement: float) -> str:
    return f"dropped: the same category in {agreement:.2%} of rows, below {MIN_AGREEMENT:.0%}"


def _compare(form: str, reference: FloatArray, logits: FloatArray) -> Parity:
    return Parity(
        form=form,
        rows=len(reference),
        # Where one of them is not a number, they could not differ more.
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
