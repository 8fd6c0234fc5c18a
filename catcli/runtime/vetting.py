"""What an exported model may be made of, looked at before ONNX Runtime sees it: adapters come by mail, too.

ONNX has no way to run code of its own, but a file of it can name operators of libraries that are loaded beside the runtime, read weights
from any place of the disk, and hide loops. What Optimum exports of a text encoder needs none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from catcli.errors import AdapterError, listed

OPSETS = range(13, 24)
"""Versions of ONNX's own operators; this catcli exports 18."""

INPUTS, OUTPUTS = ["input_ids", "attention_mask"], ["logits"]

MOST_NODES = 200_000

OPERATORS = """
Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape Cos CumSum DequantizeLinear Div DynamicQuantizeLinear Elu Equal
Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity If
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg Not OneHot Or Pad Pow
QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterElements ScatterND
Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Trilu Unsqueeze Where
Xor
"""
"""Operators that compute tensors from tensors and end: no loops, sequences, strings or random numbers, nor any of other domains.

More than the architectures of `catcli.models.architectures` are exported with (a test exports them all); ``If`` chooses between two graphs
that are looked at alike.
"""

_KNOWN = frozenset(OPERATORS.split())


def vet(file: Path, beside: Collection[str]) -> None:
    """Stop at a model that is made of anything else than an exported classifier; ``beside`` names the files that may hold its weights.

    Raises:
        AdapterError: it is no ONNX file, or has what none of ours has.
    """
    # By its name onnx would take it for text, and ONNX Runtime for a format of its own: what is looked at has to be what is run.
    if file.suffix != ".onnx":
        raise AdapterError(f"{file} is named otherwise than models are, which end in .onnx: do not use it, fit one of your own.")
    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file} is no ONNX file that can be read; copy the adapter again from where it was made.") from error
    problem = next(_problems(model, file, beside), None)
    if problem is not None:
        raise AdapterError(f"{file} {problem}; no adapter that catcli made has such a model: do not use it, fit one of your own.")


def _problems(model: onnx.ModelProto, file: Path, beside: Collection[str]) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"asks for the operators of {opset.domain!r}"
        elif opset.version not in OPSETS:
            yield f"is of ONNX opset {opset.version}, not one of {OPSETS[0]} to {OPSETS[-1]}"
    if model.functions:
        yield "brings functions of its own"
    inputs, outputs = [one.name for one in model.graph.input], [one.name for one in model.graph.output]
    if (inputs, outputs) != (INPUTS, OUTPUTS):
        yield f"has the inputs {listed(inputs)} and the outputs {listed(outputs)}, not {listed(INPUTS)} and {listed(OUTPUTS)}"
    for number, node in enumerate(_nodes(model.graph)):
        if number > MOST_NODES:
            yield f"has more than {MOST_NODES:,} operators"
        if node.domain not in ("", "ai.onnx") or node.op_type not in _KNOWN:
            yield f"has the operator {'.'.join(filter(None, (node.domain, node.op_type)))[:80]!r}"
    for tensor in _tensors(model.graph):
        yield from _misplaced(tensor, file, beside)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those within its operators."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        for node in found.node:
            for attribute in node.attribute:
                waiting.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for one in _graphs(graph):
        yield from one.node


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Everything that can hold numbers: weights, constants of operators, and their sparse forms."""
    for one in _graphs(graph):
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in one.node:
            for attribute in node.attribute:
                yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
                for sparse in [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]:
                    yield from (sparse.values, sparse.indices)


def _misplaced(tensor: onnx.TensorProto, file: Path, beside: Collection[str]) -> Iterator[str]:
    """What is wrong with where a tensor's numbers lie."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    told = {entry.key: entry.value for entry in tensor.external_data}
    place = told.get("location", "")
    if place not in beside:
        yield f"takes weights from {place[:80]!r}, which is not among its adapter's files"
        return
    try:
        offset, length = int(told.get("offset", "0")), int(told.get("length", "0"))
    except ValueError:
        offset = length = -1
    size = (file.parent / place).stat().st_size
    if min(offset, length) < 0 or offset + length > size or any(dimension < 0 for dimension in tensor.dims):
        yield f"takes weights from beyond the {size:,} bytes of {place}"
