"""texts → categories and confidences: session, linear model, blend, calibrate."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from catcli.adapter.folder import Adapter
from catcli.adapter.manifest import Variant
from catcli.adapter.parquet import TEXT_TYPE, StoredColumns, logits_type, read_columns, write_columns
from catcli.adapter.vetting import check_model
from catcli.arrays import BoolArray, FloatArray
from catcli.config import DEFAULT_MAX_CHANGE
from catcli.errors import AdapterError, name_list
from catcli.evaluation.blend import blend_logits, calibrate, decided_alone
from catcli.evaluation.label_choice import MOST_PROBABLE, LabelChoice
from catcli.inference.cuda import has_cuda
from catcli.inference.ngrams import LinearModel
from catcli.inference.sandbox import check_adapter, start_check
from catcli.inference.session import CPU_PROVIDER, Session
from catcli.inference.tokens import Tokenizer

MAX_CELLS = 2**22
"""Texts are labeled so many at a time that rows times classes stays below this: 16 MiB a float32 matrix."""

CHECKED_SHARE = 128
"""Of so many texts that the linear model decides, one is labeled by both models all the same."""

PROBE_ROWS = 16
"""Rows whose logits an adapter carries, to be computed again where it is used."""

MIN_PROBE_AGREEMENT = 0.9
"""Share of the probe rows in which a reduced precision has to find the category that was found where the adapter was made."""

MAX_FP32_DIFFERENCE = 1e-2
"""Logits of one float32 model on two processors differ by rounding, some 1e-5; more than this is another model."""

Vetting = Literal["in a child", "as the child", "here", "done"]


@dataclass(frozen=True)
class Labels:
    """Labels of texts, the one that counts first.

    ``classes`` and ``confidences`` have shape *(texts, width)*; ``confidences`` are calibrated probabilities. ``cut`` counts texts of more
    tokens than the encoder reads, of those that it read, ``halved`` batches that memory was too short for. ``decided`` counts texts that
    the linear model decided alone, ``checked`` those of them that both models labeled all the same, and ``changed`` those of these that
    both gave another category.
    """

    classes: npt.NDArray[np.int64]
    confidences: FloatArray
    cut: int = 0
    halved: int = 0
    decided: int = 0
    checked: int = 0
    changed: int = 0


@dataclass(frozen=True)
class ModelLogits:
    """Logits of the two models, each *(texts, classes)*."""

    lora: FloatArray
    linear: FloatArray


@dataclass(frozen=True)
class _Served:
    """Probabilities *(texts, classes)*, and the counts of `Labels`."""

    probabilities: FloatArray
    counts: Counter[str]


class Labeler:
    """A loaded adapter that labels texts, without torch."""

    def __init__(
        self,
        adapter: Adapter,
        device: str = "auto",
        variant: str = "auto",
        batch_tokens: int | None = None,
        workers: int | None = None,
        vetting: Vetting = "in a child",
        max_change: float = DEFAULT_MAX_CHANGE,
    ) -> None:
        """Load the adapter's models and compute its probe rows again. ``variant`` is one that the adapter has, or ``auto`` for the fastest.

        The linear model decides texts alone as long as no more than ``max_change`` of them get another category; with 0 both label all.

        ``vetting`` says where its models are tested and vetted first: in a child process (`catcli.inference.sandbox`), here, or not at
        all where somebody else has done it.

        Raises:
            AdapterError: a file is damaged, the variant is not there, or the models do not compute here what they computed where they
                were made.
            DeviceError: ``device`` is ``cuda`` and there is none.
        """
        manifest = adapter.manifest
        self._vetting = vetting
        first = candidate_variants(adapter, device, variant)[0]
        if vetting == "in a child":
            start_check(adapter, first)
        for name in (
            "tokenizer.json",
            "linear.safetensors",
            "probe.parquet",
            *manifest.variants[first].data,
            manifest.variants[first].file,
        ):
            adapter.file(name)  # hashed while the child works
        self._is_vetted(adapter, first)  # before anything of it is loaded
        self.categories, self.device = manifest.categories, device
        self.notes: list[str] = []
        self._blend = manifest.blend
        self._tokenizer = Tokenizer.load(adapter.file("tokenizer.json"), manifest.max_tokens, manifest.pad_id)
        self._linear = LinearModel.load(adapter.file("linear.safetensors"))
        if len(self._linear.bias) != len(self.categories):
            raise AdapterError(
                f"{adapter.folder}: its linear model knows {len(self._linear.bias):,} categories and adapter.json names "
                f"{len(self.categories):,}; copy the adapter again, or fit a new one."
            )
        self._sizes = {"batch_tokens": batch_tokens, "workers": workers}
        types = {"text": TEXT_TYPE, **dict.fromkeys(manifest.variants, logits_type(len(self.categories)))}
        probe = read_columns(adapter.file("probe.parquet"), types, PROBE_ROWS)
        self.variant, self._session = self._open(adapter, device, variant, probe)
        self._confidence = manifest.variants[self.variant].confidence
        self.cascade = manifest.variants[self.variant].cascade(max_change)
        self._linear.logits(["a text"])  # its tables are made once, not by every thread

    def _open(self, adapter: Adapter, device: str, requested: str, probe: StoredColumns) -> tuple[Variant, Session]:
        """The session of the fastest variant that gives here what it gave where the adapter was made."""
        served, order = adapter.manifest.variants, candidate_variants(adapter, device, requested)
        for name in order:
            for weight_file in served[name].data:
                adapter.file(weight_file)
            file = adapter.file(served[name].file)
            if not self._is_vetted(adapter, name):
                check_model(file, served[name].data)
            session = Session(file, device, **self._sizes)
            if session.no_cuda:
                self.notes.append(
                    f"ONNX Runtime did not get the GPU ({session.no_cuda}) and labels on the CPU; 'catcli doctor' shows what is missing."
                )
                return self._open(adapter, "cpu", requested, probe)
            # On another processor a model may give other logits; whether it may serve is for the process that asks to see.
            if self._agrees(session, probe, name) or self._vetting == "as the child":
                return name, session
            if name != order[-1]:
                self.notes.append(f"{name} gives other categories on this device than where the adapter was made; fp32 is used.")
        raise AdapterError(
            f"{adapter.folder} gives other logits here ({session.provider}) than where it was made; fit it again on this machine"
            + (", or pass --device cpu." if session.provider != CPU_PROVIDER else ".")
        )

    def _is_vetted(self, adapter: Adapter, variant: Variant) -> bool:
        return self._vetting == "done" or (self._vetting == "in a child" and check_adapter(adapter, variant))

    def _agrees(self, session: Session, probe: StoredColumns, variant: Variant) -> bool:
        expected = probe.numbers[variant]
        computed = encoder_logits(self._tokenizer, session, probe.texts["text"])
        if computed.shape != expected.shape:
            return False
        if variant != "fp32" or session.provider != CPU_PROVIDER:
            # int8 rounds otherwise on other instruction sets, and a GPU multiplies in TF32; their categories agree, but for a near tie.
            return bool((computed.argmax(1) == expected.argmax(1)).mean() >= MIN_PROBE_AGREEMENT)
        return bool(np.abs(computed - expected).max(initial=0.0) <= MAX_FP32_DIFFERENCE)

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that the session really got."""
        return self._session.provider

    @property
    def workers(self) -> int:
        """Threads that can call `label` at once without waiting for one another."""
        return self._session.workers

    @property
    def texts_per_call(self) -> int:
        """Texts that are worth labeling in one call: enough to fill batches, few enough that no worker is long alone at the end."""
        if self._session.provider != CPU_PROVIDER:
            return 8192
        return 256 if self.cascade is None else 1024

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text."""
        return self._tokenizer.encode(texts)

    def lora(self, ids: Sequence[Sequence[int]]) -> FloatArray:
        """Logits *(texts, classes)* of LoRA's model for tokenized texts, on all workers."""
        return session_logits(self._tokenizer, self._session, ids, self.workers)

    def linear(self, texts: Sequence[str]) -> FloatArray:
        """Logits *(texts, classes)* of the linear model."""
        return self._linear.logits(texts)

    def decided(self, texts: Sequence[str]) -> BoolArray:
        """Which texts *(texts,)* the linear model decides alone."""
        if self.cascade is None:
            return np.zeros(len(texts), np.bool_)
        return decided_alone(self.linear(texts), self.cascade.margin)

    def logits(self, texts: Sequence[str]) -> ModelLogits:
        """Logits of both models for ``texts``."""
        return ModelLogits(self.lora(self.tokenize(texts)), self.linear(texts))

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Calibrated probabilities *(texts, classes)*, as `label` has them."""
        parts = [self._serve(texts[rows]).probabilities for rows in self._chunks(len(texts))]
        return np.concatenate([np.empty((0, len(self.categories)), np.float32), *parts])

    def label(self, texts: Sequence[str], choice: LabelChoice = MOST_PROBABLE) -> Labels:
        """The labels of every text. Several threads may call this at once; each call runs on its own."""
        width = choice.width(len(self.categories))
        classes, confidences = np.empty((len(texts), width), np.int64), np.empty((len(texts), width), np.float32)
        counts: Counter[str] = Counter()
        for rows in self._chunks(len(texts)):
            served = self._serve(texts[rows])
            classes[rows], confidences[rows] = choice.choose(served.probabilities)
            counts += served.counts
        return Labels(classes, confidences, halved=self._session.halvings(), **counts)

    def _chunks(self, count: int) -> Iterator[slice]:
        size = max(1, MAX_CELLS // max(len(self.categories), 1))
        return (slice(start, start + size) for start in range(0, count, size))

    def _serve(self, texts: Sequence[str]) -> _Served:
        """Label texts: those that the linear model decides by it alone, the others by both models, and of the former a sample too.

        Which texts are in the sample follows from the texts, so a run that goes on, or runs elsewhere, has the same.
        """
        linear = self._linear.logits(texts)
        if self.cascade is None:
            probabilities, cut = self._both(texts, linear)
            return _Served(probabilities, Counter(cut=cut))
        decided = decided_alone(linear, self.cascade.margin)
        sampled = decided & np.fromiter(
            (zlib.crc32(text.encode("utf-8", "surrogatepass")) % CHECKED_SHARE == 0 for text in texts), np.bool_
        )
        encoded = np.flatnonzero(~decided | sampled)
        by_both, cut = self._both([texts[row] for row in encoded.tolist()], linear[encoded])
        probabilities = np.empty_like(linear)
        probabilities[encoded] = by_both
        probabilities[decided] = calibrate(linear[decided], self.cascade.confidence)
        changed = (by_both.argmax(1) != linear[encoded].argmax(1)) & sampled[encoded]
        return _Served(
            probabilities,
            Counter(cut=cut, decided=int(decided.sum()), checked=int(sampled.sum()), changed=int(changed.sum())),
        )

    def _both(self, texts: Sequence[str], linear: FloatArray) -> tuple[FloatArray, int]:
        """Probabilities *(texts, classes)* by both models, and how many texts have more tokens than the encoder reads."""
        if not len(texts):
            return np.empty((0, len(self.categories)), np.float32), 0
        ids, cut = self._tokenizer.encode_counting(texts)
        lora = session_logits(self._tokenizer, self._session, ids, workers=1)
        scores = blend_logits(lora, linear, self._blend)
        if not np.isfinite(scores).all():
            raise AdapterError(
                f"the adapter's {self.variant} model and its linear model give scores that are no finite numbers on {self.provider}; pass "
                "--variant fp32, or fit the adapter again."
            )
        return calibrate(scores, self._confidence), cut


def candidate_variants(adapter: Adapter, device: str, wanted: str) -> list[Variant]:
    """The variants that may serve on ``device``, the fastest first.

    Raises:
        AdapterError: the adapter does not have the one that is named.
    """
    served = adapter.manifest.variants
    if wanted != "auto" and wanted not in served:
        raise AdapterError(
            f"--variant {wanted}: {adapter.folder} has {name_list(served)}; choose one of these, or fit it again on a machine where that "
            "variant is faster."
        )
    # fp16 is for GPUs and int8 for CPUs: where a smaller file will serve, the larger one is not even opened.
    gpu = device == "cuda" or (device == "auto" and has_cuda())
    fast: Variant = "fp16" if gpu else "int8"
    order: tuple[Variant, ...] = (fast, "fp32") if wanted == "auto" else (cast(Variant, wanted),)
    return [name for name in order if name in served]


def encoder_logits(tokenizer: Tokenizer, session: Session, texts: Sequence[str]) -> FloatArray:
    """Logits *(texts, classes)* of an exported model, on all of the session's workers."""
    return session_logits(tokenizer, session, tokenizer.encode(texts), session.workers)


def session_logits(tokenizer: Tokenizer, session: Session, ids: Sequence[Sequence[int]], workers: int) -> FloatArray:
    """Logits *(texts, classes)* for tokenized texts; with one worker in the calling thread."""
    batches = list(tokenizer.batches(ids, session.budget, same_length=session.same_length))
    if workers == 1:
        batch_logits = list(map(session.logits, batches))
    else:
        with ThreadPoolExecutor(workers) as pool:
            batch_logits = list(pool.map(session.logits, batches))
    if not batch_logits:
        return np.empty((0, 0), np.float32)
    out = np.empty((len(ids), batch_logits[0].shape[1]), np.float32)
    for batch, logits in zip(batches, batch_logits, strict=True):
        out[batch.rows] = logits
    return out


def save_probe(file: Path, texts: Sequence[str], logits: Mapping[Variant, FloatArray]) -> None:
    """Write some texts and what each variant's session made of them."""
    write_columns(file, {"text": texts}, {str(variant): values for variant, values in logits.items()})
