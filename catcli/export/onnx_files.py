"""An ONNX model → int8 and fp16, and the names of their files."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from catcli.adapter.manifest import Variant
from catcli.export.exporters import expected_warnings

MODEL_FILES: dict[Variant, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}


def to_int8(onnx_file: Path, file: Path) -> None:
    """Quantize the weights of every matrix product to int8, a scale per output channel; activations are quantized as they come."""
    with expected_warnings():
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
