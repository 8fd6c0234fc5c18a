"""A merged classifier → ONNX → int8 and fp16."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.exporters.onnx import OnnxConfig, export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

from catcli.adapter.manifest import Variant
from catcli.models.classifier import Classifier

OPSET = 18

MODEL_FILES: dict[Variant, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}

_EXPECTED_WARNINGS = (
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
            for message in _EXPECTED_WARNINGS:
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
    config: type[OnnxConfig] = type(
        f"Catcli{known.__name__}",
        (known,),
        {
            "inputs": property(lambda _: {"input_ids": axes, "attention_mask": axes}),
            "outputs": property(lambda _: {"logits": {0: "rows"}}),
        },
    )
    return config(classifier.config, task="feature-extraction")


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
            use_external_data_format=bool(external_weight_files(onnx_file)),
        )


def to_fp16(onnx_file: Path, file: Path) -> None:
    """Halve the weights and what is computed from them; ids go in as they are and logits come out in float32."""
    large = bool(external_weight_files(onnx_file))  # shapes cannot be inferred above 2 GiB; they are needed for odd operators only
    halved = convert_float_to_float16(onnx.load(onnx_file), keep_io_types=True, disable_shape_infer=large)
    onnx.save(halved, file, save_as_external_data=large, location=f"{file.name}_data")


def external_weight_files(file: Path) -> tuple[str, ...]:
    """The files beside an ONNX file that hold its weights: protobuf holds no more than 2 GiB. Optimum and ONNX Runtime end them so."""
    return tuple(name for name in (f"{file.name}_data", f"{file.name}.data") if (file.parent / name).exists())
