"""Checks of an exported model before ONNX Runtime loads it: an adapter may come from a stranger.

ONNX has no way to run code of its own, but a file of it can name operators of libraries that are loaded beside the runtime, read weights
from any place of the disk, and hide loops. What Optimum exports of a text encoder needs none of these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from catcli.errors import AdapterError, name_list

OPSETS = range(13, 24)
"""Versions of ONNX's own operators; this catcli exports 18."""

INPUTS, OUTPUTS = ["input_ids", "attention_mask"], ["logits"]

MAX_NODES = 200_000

ALLOWED_OPERATORS = """
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

_KNOWN = frozenset(ALLOWED_OPERATORS.split())

MAX_ELEMENTS = 2**28
"""Numbers of a tensor whose size does not depend on the texts: the largest weights of the known architectures have as many."""

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


def check_model(file: Path, weight_files: Collection[str]) -> None:
    """Refuse a model that is anything else than an exported classifier.

    ``weight_files`` are the names of the files that may hold its weights.

    Raises:
        AdapterError: it is not an ONNX file, or has what none of ours has.
    """
    # By its name onnx would take it for text, and ONNX Runtime for a format of its own: what is looked at has to be what is run.
    if file.suffix != ".onnx":
        raise AdapterError(f"{file} is named otherwise than models are, which end in .onnx: do not use it, fit one of your own.")
    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file} is not an ONNX file that can be read; copy the adapter again from where it was made.") from error
    problem = next(_problems(model, file, weight_files), None)
    if problem is not None:
        raise AdapterError(f"{file} {problem}; no adapter that catcli made has such a model: do not use it, fit one of your own.")


def _problems(model: onnx.ModelProto, file: Path, weight_files: Collection[str]) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"asks for the operators of {opset.domain!r}"
        elif opset.version not in OPSETS:
            yield f"is of ONNX opset {opset.version}, not one of {OPSETS[0]} to {OPSETS[-1]}"
    if model.functions:
        yield "brings functions of its own"
    inputs, outputs = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    if (inputs, outputs) != (INPUTS, OUTPUTS):
        yield f"has the inputs {name_list(inputs)} and the outputs {name_list(outputs)}, not {name_list(INPUTS)} and {name_list(OUTPUTS)}"
    for number, node in enumerate(_nodes(model.graph)):
        if number > MAX_NODES:
            yield f"has more than {MAX_NODES:,} operators"
        if node.domain not in ("", "ai.onnx") or node.op_type not in _KNOWN:
            named = ".".join(str(name) for name in (node.domain, node.op_type) if name)  # protobuf gives bytes where a name is not UTF-8
            yield f"has the operator {named[:80]!r}"
    for tensor in _tensors(model.graph):
        yield from _misplaced(tensor, file, weight_files)
    # What is known of one tensor would be believed of another of its name.
    yield from (f"defines {name[:80]!r} twice" for name, times in Counter(_defined(model.graph)).items() if name and times > 1)
    yield from _dangerous_shapes_and_divisions(model)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those within its operators."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                waiting.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for subgraph in _graphs(graph):
        yield from subgraph.node


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that stand for tensors, in all graphs."""
    for subgraph in _graphs(graph):
        initializers = {tensor.name for tensor in subgraph.initializer} | {sparse.values.name for sparse in subgraph.sparse_initializer}
        yield from initializers
        yield from (value.name for value in subgraph.input if value.name not in initializers)
        for node in subgraph.node:
            yield from node.output


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Everything that can hold numbers: weights, constants of operators, and their sparse forms."""
    for subgraph in _graphs(graph):
        yield from subgraph.initializer
        for sparse in subgraph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in subgraph.node:
            for attribute in node.attribute:
                yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
                for sparse in [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]:
                    yield from (sparse.values, sparse.indices)


def _misplaced(tensor: onnx.TensorProto, file: Path, weight_files: Collection[str]) -> Iterator[str]:
    """What is wrong with where a tensor's numbers lie."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    external = {entry.key: entry.value for entry in tensor.external_data}
    location = external.get("location", "")
    if location not in weight_files:
        yield f"takes weights from {location[:80]!r}, which is not among its adapter's files"
        return
    try:
        offset, length = int(external.get("offset", "0")), int(external.get("length", "0"))
    except ValueError:
        offset = length = -1
    size = (file.parent / location).stat().st_size
    if min(offset, length) < 0 or offset + length > size or any(dimension < 0 for dimension in tensor.dims):
        yield f"takes weights from beyond the {size:,} bytes of {location}"


def _dangerous_shapes_and_divisions(model: onnx.ModelProto) -> Iterator[str]:
    """Tensors of a fixed size that would fill memory, and integer divisions that can end the process.

    A processor answers 0 as a divisor, and the smallest number divided by -1, with a signal that no program catches (SIGFPE). No export of
    the known architectures divides integers by anything but a constant.
    """
    constants = {tensor.name: tensor for tensor in _tensors(model.graph) if tensor.name}
    for node in _nodes(model.graph):
        if node.op_type == "Constant" and len(node.output) == 1:
            constants.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.HasField("t"))
    types: dict[str, set[int]] = {}
    for name, kind in _inferred(model):
        types.setdefault(name, set()).add(kind.elem_type)
        sizes = [dimension.dim_value for dimension in kind.shape.dim if dimension.HasField("dim_value")]
        if math.prod(sizes) > MAX_ELEMENTS:
            yield f"makes the tensor {name[:80]!r} of at least {math.prod(sizes):,} numbers"
    for node in _nodes(model.graph):
        if node.op_type in ("Div", "Mod") and len(node.input) == 2:
            known = types.get(node.input[0], set()) | types.get(node.input[1], set())
            if not (known and known <= _FLOATS) and not _divides_safely(node.input[1], constants):
                yield f"divides integers by {node.input[1][:80]!r}, which is no constant other than 0 and -1"


def _divides_safely(divisor: str, constants: Mapping[str, onnx.TensorProto]) -> bool:
    tensor = constants.get(divisor)
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL or math.prod(tensor.dims) > 1024:
        return False
    try:
        values = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return False
    return bool(np.isin(values, (0, -1)).sum() == 0)


def _inferred(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TypeProto.Tensor]]:
    """The name, type and known sizes of every tensor, as ONNX infers them of the graph without its weights, which are dropped for it."""
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if math.prod(tensor.dims) > 1024:  # small ones hold shapes, which inference needs
                for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"):
                    tensor.ClearField(field)
                tensor.data_location = onnx.TensorProto.DEFAULT
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):  # what it cannot infer is of no known type
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)).tensor_type
            yield tensor.name, kind
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type"):
                yield value.name, value.type.tensor_type
