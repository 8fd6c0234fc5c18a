"""texts → categories and confidences: deduplicate, session, linear model, blend, calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.adapter import Adapter, Variant
from catcli.errors import AdapterError
from catcli.runtime.blend import Array, mix, softmax
from catcli.runtime.ngrams import LinearModel
from catcli.runtime.session import CPU, Session, cuda_is_there
from catcli.runtime.tokens import Tokenizer

SLAB = 2**22
"""Texts are labeled so many at a time that rows times classes stays below this: 16 MiB a float32 matrix."""

PROBE_ROWS = 16
"""Rows whose logits an adapter carries, to be computed again where it is used."""

AGREEMENT = 0.9
"""Share of the probe rows in which a reduced precision has to find the category that was found where the adapter was made."""

FP32_TOLERANCE = 1e-2
"""Logits of one float32 model on two processors differ by rounding, some 1e-5; more than this is another model."""


@dataclass(frozen=True)
class Labels:
    """What a text is labeled with: the ``k`` most probable classes, the most probable first.

    ``classes`` and ``confidences`` have shape *(texts, k)*; ``confidences`` are calibrated probabilities.
    """

    classes: npt.NDArray[np.int64]
    confidences: Array


@dataclass(frozen=True)
class Voices:
    """Logits of the two models, each *(texts, classes)*."""

    lora: Array
    linear: Array


class Labeler:
    """An adapter, loaded and ready. Needs no torch."""

    def __init__(self, adapter: Adapter, device: str = "auto", variant: Variant | None = None) -> None:
        """Load the adapter's models and compute its probe rows again.

        Raises:
            AdapterError: a file is damaged, or the models do not compute here what they computed where they were made.
            DeviceError: ``device`` is ``cuda`` and there is none.
        """
        manifest = adapter.manifest
        self.categories = manifest.categories
        self.notes: list[str] = []
        self._blend = manifest.blend
        self._tokenizer = Tokenizer(adapter.file("tokenizer.json"), manifest.max_tokens, manifest.pad_id)
        self._linear = LinearModel.load(adapter.file("linear.safetensors"))
        probe = pl.read_parquet(adapter.file("probe.parquet"))
        self.variant, self._session = self._open(adapter, device, variant, probe)
        self._temperature = manifest.variants[self.variant].temperature

    def _open(self, adapter: Adapter, device: str, variant: Variant | None, probe: pl.DataFrame) -> tuple[Variant, Session]:
        served = adapter.manifest.variants
        # int8 is for CPUs: where it will serve, the larger file is not even opened.
        may_serve_int8 = "int8" in served and variant != "fp32" and device != "cuda" and (device == "cpu" or not cuda_is_there())
        session = None if may_serve_int8 else Session(adapter.file(served["fp32"].file), device)
        if session is not None and session.fell_back:
            self.notes.append("ONNX Runtime did not get the GPU and labels on the CPU; 'catcli doctor' shows what is missing.")
        if variant != "fp32" and "int8" in served and (session is None or session.provider == CPU):
            quantized = Session(adapter.file(served["int8"].file), "cpu")
            if self._agrees(quantized, probe, "int8"):
                return "int8", quantized
            self.notes.append("int8 gives other categories on this processor than where the adapter was made; fp32 is used.")
        session = session or Session(adapter.file(served["fp32"].file), device)
        if not self._agrees(session, probe, "fp32"):
            raise AdapterError(
                f"{adapter.folder} gives other logits here ({session.provider}) than where it was made; fit it again on this machine, "
                "or pass --device cpu."
            )
        return "fp32", session

    def _agrees(self, session: Session, probe: pl.DataFrame, variant: Variant) -> bool:
        there = probe[variant].to_numpy()
        here = lora_logits(self._tokenizer, session, probe["text"].to_list())
        if variant == "int8" or session.provider != CPU:
            # int8 rounds otherwise on other instruction sets, and a GPU multiplies in TF32; their categories agree, but for a near tie.
            return bool((here.argmax(1) == there.argmax(1)).mean() >= AGREEMENT)
        return bool(np.abs(here - there).max(initial=0.0) <= FP32_TOLERANCE)

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that the session really got."""
        return self._session.provider

    @property
    def rows(self) -> int:
        """Rows of a batch that are worth labeling together: enough of like length, and a sign of life every few seconds."""
        return 2048 if self._session.provider == CPU else 32_768

    def voices(self, texts: Sequence[str]) -> Voices:
        """Logits of both models for ``texts``."""
        return Voices(lora_logits(self._tokenizer, self._session, texts), self._linear.logits(texts))

    def probabilities(self, texts: Sequence[str]) -> Array:
        """Calibrated probabilities *(texts, classes)*."""
        voices = self.voices(texts)
        return softmax(mix(voices.lora, voices.linear, self._blend) / np.float32(self._temperature))

    def label(self, texts: Sequence[str], top_k: int = 1) -> Labels:
        """The ``top_k`` most probable classes of every text; equal texts are labeled once."""
        number: dict[str, int] = {}
        owner = np.fromiter((number.setdefault(text, len(number)) for text in texts), dtype=np.int64, count=len(texts))
        distinct = list(number)
        k = min(top_k, len(self.categories))
        classes = np.empty((len(distinct), k), np.int64)
        confidences = np.empty((len(distinct), k), np.float32)
        for rows in self._slabs(distinct):
            probabilities = self.probabilities([distinct[row] for row in rows])
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
            classes[rows] = best
            confidences[rows] = np.take_along_axis(probabilities, best, axis=1)
        return Labels(classes[owner], confidences[owner])

    def _slabs(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Row numbers by length, few enough at a time that no matrix over all classes grows with the batch."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        size = max(1, SLAB // max(len(self.categories), 1))
        for start in range(0, len(order), size):
            yield order[start : start + size]


def lora_logits(tokenizer: Tokenizer, session: Session, texts: Sequence[str]) -> Array:
    """Logits *(texts, classes)* of an exported model."""
    ids = tokenizer.encode(texts)
    out: Array | None = None
    for batch in tokenizer.batches(ids, session.budget):
        logits = session.logits(batch)
        if out is None:
            out = np.empty((len(texts), logits.shape[1]), np.float32)
        out[batch.rows] = logits
    return np.empty((0, 0), np.float32) if out is None else out


def save_probe(file: Path, texts: Sequence[str], logits: Mapping[Variant, Array]) -> None:
    """Write some texts and what each variant's session made of them."""
    columns = [pl.Series(variant, values, dtype=pl.Array(pl.Float32, values.shape[1])) for variant, values in logits.items()]
    pl.DataFrame([pl.Series("text", texts, dtype=pl.String), *columns]).write_parquet(file)
