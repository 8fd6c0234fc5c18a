"""Adapters that came by mail: whatever was done to one ends in a sentence, even where the forger has written new hashes."""

from __future__ import annotations

import ast
import base64
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import polars as pl
import pytest
from conftest import FIXTURE, Shop, catcli
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from tiny import tiny_fit

from catcli.adapter.folder import Adapter, file_sha256, load_adapter
from catcli.adapter.seal import is_sealed
from catcli.errors import AdapterError, CatcliError
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.sandbox import READY, SandboxRun
from catcli.inference.session import Session
from catcli.reporting.report import report

pytestmark = pytest.mark.slow

SYSTEM_FILE = "/etc/hostname"
TRICKED = Path("/tmp/catcli-was-tricked")

Tamper = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """One kind of tampering: what is done to the folder, what the sentence says, and whether labeling meets it or the report does."""

    tamper: Tamper
    sentence: str
    when_labeling: bool


KINDS: dict[str, Kind] = {}


def kind(name: str, sentence: str, *, when_labeling: bool = True) -> Callable[[Tamper], Tamper]:
    def register(tamper: Tamper) -> Tamper:
        KINDS[name] = Kind(tamper, sentence, when_labeling)
        return tamper

    return register


# --- ways to change a folder, new hashes included -------------------------------------------------------------------------------------


def copied(place: Path) -> Path:
    """The adapter that is tampered with."""
    return Path(shutil.copytree(FIXTURE, place / "mailed"))


def signed(folder: Path) -> None:
    """Write the hashes of the files as they are now."""
    manifest = json.loads((folder / "adapter.json").read_text())
    manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
    (folder / "adapter.json").write_text(json.dumps(manifest))


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    signed(folder)


def rewritten(folder: Path, name: str, **changes: object) -> None:
    """Set some fields of a JSON file; ``__`` leads into one."""
    told = json.loads((folder / name).read_text())
    for path, value in changes.items():
        *steps, last = path.split("__")
        place = told
        for step in steps:
            place = place[step]
        place[last] = value
    (folder / name).write_text(json.dumps(told))
    if name != "adapter.json":
        signed(folder)


def manifest(folder: Path, **changes: object) -> None:
    rewritten(folder, "adapter.json", **changes)


def model(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the exported model."""
    found = onnx.load(folder / "model.onnx", load_external_data=False)
    change(found)
    put(folder, "model.onnx", found.SerializeToString())


def with_operator(folder: Path, node: onnx.NodeProto) -> None:
    model(folder, lambda found: found.graph.node.insert(0, node))


def weights_from(folder: Path, place: str, length: int = 16, offset: int = 0) -> None:
    """Let the model take its weights from another place."""

    def change(found: onnx.ModelProto) -> None:
        tensor = next(one for one in found.graph.initializer if len(one.raw_data) > 100)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": place, "offset": str(offset), "length": str(length)}.items():
            tensor.external_data.add(key=key, value=value)

    model(folder, change)


def arrays(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change an array of the linear model."""
    found = load_file(folder / "linear.safetensors")
    save_file({**found, name: change(found[name])}, folder / "linear.safetensors")
    signed(folder)


def table(folder: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    frame = change(pl.read_parquet(folder / name))
    frame.write_parquet(folder / name)
    signed(folder)


def linked(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to("../elsewhere")


# --- the folder -----------------------------------------------------------------------------------------------------------------------


@kind("a byte of a file was changed", "model.onnx has changed since it was written")
def _(folder: Path) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x00\x01\x02\x03")


@kind("a file is missing", "has no linear.safetensors")
def _(folder: Path) -> None:
    (folder / "linear.safetensors").unlink()


@kind("a file is a link", "model.onnx is a link to ../elsewhere; an adapter's files lie in its own folder")
def _(folder: Path) -> None:
    linked(folder, "model.onnx")


@kind("the manifest is a link", "adapter.json is a link to ../elsewhere")
def _(folder: Path) -> None:
    linked(folder, "adapter.json")


@kind("a file is a pipe, which never ends", "tokenizer.json is not a regular file")
def _(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


# --- adapter.json ---------------------------------------------------------------------------------------------------------------------


@kind("a file's name leads out of the folder", "'../../catalog.csv' is not a plain name: an adapter's files lie in its own folder")
def _(folder: Path) -> None:
    told = json.loads((folder / "adapter.json").read_text())
    manifest(folder, files={**told["files"], "../../catalog.csv": "0" * 64})


@kind("a model's name is a path", f"'{SYSTEM_FILE}' is not a plain name")
def _(folder: Path) -> None:
    manifest(folder, variants__fp32__file=SYSTEM_FILE)


@kind("a model is none of the files", "a model that serves is not among its files")
def _(folder: Path) -> None:
    manifest(folder, variants__fp32__file="other.onnx")


@kind("the manifest is not JSON", "adapter.json is damaged (the file: Invalid JSON: EOF while parsing")
def _(folder: Path) -> None:
    (folder / "adapter.json").write_text("{")


DEEP = b'{"categories": ' + b"[" * 200_000


@kind("the manifest is nested without end", "adapter.json is damaged (the file: Invalid JSON: recursion limit exceeded")
def _(folder: Path) -> None:
    (folder / "adapter.json").write_bytes(DEEP)


@kind("the manifest is larger than any", "has 134,217,728 bytes, and no adapter's adapter.json has more than")
def _(folder: Path) -> None:
    os.truncate(folder / "adapter.json", 2**27)


@kind("the manifest has a field of its own", "is damaged (on_load: Extra inputs are not permitted)")
def _(folder: Path) -> None:
    manifest(folder, on_load="import os")


@kind("a number is none", "is damaged (blend.lora: Input should be a finite number)")
def _(folder: Path) -> None:
    manifest(folder, blend__lora=float("nan"))


@kind("a category stands there twice", "a category stands in it twice")
def _(folder: Path) -> None:
    manifest(folder, categories=["Mugs", "Mugs", "Drills", "Coffee"])


@kind("a category more than the models know", "its linear model knows 4 categories and adapter.json names 5")
def _(folder: Path) -> None:
    manifest(folder, categories=["Mugs", "More", "Drills", "Coffee", "Shampoo"], blend__offset=[])


@kind("the blend has fewer offsets", "the blend has 1 offsets for 4 categories")
def _(folder: Path) -> None:
    manifest(folder, blend__offset=[0.0])


@kind("a name that fills memory", "is damaged (label: String should have at most 10000 characters)")
def _(folder: Path) -> None:
    manifest(folder, label="x" * 1_000_000)


@kind("the format is of the future", "upgrade catcli")
def _(folder: Path) -> None:
    manifest(folder, format=99)


# --- the model ------------------------------------------------------------------------------------------------------------------------


@kind("the model is not ONNX", "model.onnx is not an ONNX file that can be read")
def _(folder: Path) -> None:
    put(folder, "model.onnx", b"\x80not a model" * 100)


@kind("the model is empty", "model.onnx has the inputs none and the outputs none, not 'input_ids', 'attention_mask' and 'logits'")
def _(folder: Path) -> None:
    put(folder, "model.onnx", b"")


@kind("a loop in the model", "has the operator 'Loop'")
def _(folder: Path) -> None:
    with_operator(folder, helper.make_node("Loop", ["input_ids"], ["x"], body=helper.make_graph([], "body", [], [])))


@kind("an operator within an operator", "has the operator 'SequenceEmpty'")
def _(folder: Path) -> None:
    hidden, nothing = (
        helper.make_graph([helper.make_node("SequenceEmpty", [], ["y"])], "then", [], []),
        helper.make_graph([], "else", [], []),
    )
    with_operator(folder, helper.make_node("If", ["input_ids"], ["x"], then_branch=hidden, else_branch=nothing))


@kind("an operator of another library", "asks for the operators of 'com.evil'")
def _(folder: Path) -> None:
    with_operator(folder, helper.make_node("PyOp", ["input_ids"], ["x"], domain="com.evil"))
    model(folder, lambda found: found.opset_import.add(domain="com.evil", version=1))


@kind("an operator of a library that is not named", "has the operator 'com.evil.PyOp'")
def _(folder: Path) -> None:
    with_operator(folder, helper.make_node("PyOp", ["input_ids"], ["x"], domain="com.evil"))


@kind("functions in the model", "brings functions of its own")
def _(folder: Path) -> None:
    own = helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 18)])
    model(folder, lambda found: found.functions.append(own))


@kind("an opset of the future", "is of ONNX opset 99, not one of 13 to 23")
def _(folder: Path) -> None:
    model(folder, lambda found: setattr(found.opset_import[0], "version", 99))


@kind("weights from another folder", "takes weights from '../catalog.csv', which is not among its adapter's files")
def _(folder: Path) -> None:
    weights_from(folder, "../catalog.csv")


@kind("weights from the system", f"takes weights from '{SYSTEM_FILE}'")
def _(folder: Path) -> None:
    weights_from(folder, SYSTEM_FILE)


@kind("constants from the system", f"takes weights from '{SYSTEM_FILE}'")
def _(folder: Path) -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=SYSTEM_FILE)
    with_operator(folder, helper.make_node("Constant", [], ["x"], value=tensor))


@kind("weights through a link", "model.onnx_data is a link to ../elsewhere")
def _(folder: Path) -> None:
    told = json.loads((folder / "adapter.json").read_text())
    (folder / "model.onnx_data").write_bytes(b"0123456789abcdef")
    manifest(folder, variants__fp32__data=["model.onnx_data"], files={**told["files"], "model.onnx_data": "0" * 64})
    weights_from(folder, "model.onnx_data")
    linked(folder, "model.onnx_data")


@kind("weights beyond the end of a file", "takes weights from beyond the 3 bytes of model.onnx_data")
def _(folder: Path) -> None:
    told = json.loads((folder / "adapter.json").read_text())
    (folder / "model.onnx_data").write_bytes(b"few")
    manifest(folder, variants__fp32__data=["model.onnx_data"], files={**told["files"], "model.onnx_data": "0" * 64})
    weights_from(folder, "model.onnx_data", 9999)


@kind("another input", "has the inputs 'file', 'attention_mask'")
def _(folder: Path) -> None:
    model(folder, lambda found: setattr(found.graph.input[0], "name", "file"))


@kind("another model", "gives other logits here")
def _(folder: Path) -> None:
    def change(found: onnx.ModelProto) -> None:
        head = next(one for one in found.graph.initializer if one.name.endswith("head.bias"))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + np.float32(1), head.name))

    model(folder, change)


# --- what lies beside it --------------------------------------------------------------------------------------------------------------


class Evil:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {TRICKED}",)


PICKLE = pickle.dumps(Evil())


@kind("a pickle in the place of arrays", "linear.safetensors cannot be read as a linear model")
def _(folder: Path) -> None:
    put(folder, "linear.safetensors", PICKLE)


@kind("arrays with a header without end", "linear.safetensors cannot be read as a linear model")
def _(folder: Path) -> None:
    put(folder, "linear.safetensors", struct.pack("<Q", 2**62) + b"{}")


@kind("indices that lead out of an array", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "weights.indices", lambda found: found + np.int32(1_000_000))


@kind("rows that begin before the first", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "weights.indptr", lambda found: found - np.int64(5))


@kind("arrays of another type", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "bias", lambda found: found.astype(np.float64))


@kind("arrays of another shape", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "bias", lambda found: found[None])


@kind("n-grams out of order", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "ngrams.0.hashes", lambda found: found[::-1].copy())


@kind("no tokenizer", "tokenizer.json holds no tokenizer")
def _(folder: Path) -> None:
    put(folder, "tokenizer.json", b'{"version": "1.0"}')


@kind("a tokenizer nested without end", "tokenizer.json holds no tokenizer")
def _(folder: Path) -> None:
    put(folder, "tokenizer.json", DEEP)


@kind("the tokenizer of a larger model", "model.onnx cannot be computed")
def _(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    rewritten(folder, "tokenizer.json", model__vocab={word: number * 1000 for word, number in told["model"]["vocab"].items()})


@kind("a probe without logits", "probe.parquet: the column 'fp32' is not there")
def _(folder: Path) -> None:
    table(folder, "probe.parquet", lambda frame: frame.drop("fp32"))


@kind("a probe of other logits", "the column 'fp32' is fixed_size_list<element: float>[2], not fixed_size_list<element: float>[4]")
def _(folder: Path) -> None:
    table(folder, "probe.parquet", lambda frame: frame.with_columns(fp32=pl.lit([0.0, 0.0], pl.Array(pl.Float32, 2))))


@kind("a probe of a million rows", "rows, and no adapter's has more than 16")
def _(folder: Path) -> None:
    table(folder, "probe.parquet", lambda frame: pl.concat([frame] * 90_000))


@kind("held-out rows without their texts", "heldout.parquet: the column 'text' is not there", when_labeling=False)
def _(folder: Path) -> None:
    table(folder, "heldout.parquet", lambda frame: frame.drop("text"))


@kind("a probe without texts", "probe.parquet: the column 'text' is not there")
def _(folder: Path) -> None:
    table(folder, "probe.parquet", lambda frame: frame.drop("text"))


@kind("held-out rows that are no Parquet", "heldout.parquet cannot be read as Parquet", when_labeling=False)
def _(folder: Path) -> None:
    put(folder, "heldout.parquet", PICKLE)


@kind("held-out rows of another category", "heldout.parquet has rows of other categories or parts", when_labeling=False)
def _(folder: Path) -> None:
    table(folder, "heldout.parquet", lambda frame: frame.with_columns(category=pl.lit("Unheard of")))


@kind("held-out rows of a part that is none", "heldout.parquet has rows of other categories or parts", when_labeling=False)
def _(folder: Path) -> None:
    table(folder, "heldout.parquet", lambda frame: frame.with_columns(part=pl.lit("fold 0, not scored")))


@kind("held-out logits that are no numbers", "heldout.parquet has cells without a value", when_labeling=False)
def _(folder: Path) -> None:
    nothing = pl.lit([float("nan")] * 4, pl.Array(pl.Float32, 4))
    table(folder, "heldout.parquet", lambda frame: frame.with_columns(lora_logits=nothing))


@kind("scores of another adapter", "metrics.json tells of categories or models that its adapter does not have", when_labeling=False)
def _(folder: Path) -> None:
    told = json.loads((folder / "metrics.json").read_text())
    told["blend"]["categories"][0]["category"] = "Unheard of"
    put(folder, "metrics.json", json.dumps(told).encode())


@kind("scores of a model that is not there", "metrics.json tells of categories or models", when_labeling=False)
def _(folder: Path) -> None:
    rewritten(folder, "metrics.json", variant="fp16")


@kind("scores without their numbers", "metrics.json is damaged", when_labeling=False)
def _(folder: Path) -> None:
    rewritten(folder, "metrics.json", blend=None)


def called(folder: Path, name: str) -> None:
    (folder / "model.onnx").rename(folder / name)
    told = json.loads((folder / "adapter.json").read_text())
    told["files"][name] = told["files"].pop("model.onnx")
    told["variants"]["fp32"]["file"] = name
    (folder / "adapter.json").write_text(json.dumps(told))


@kind("a model that ONNX Runtime would read as another format", "model.ort is named otherwise than models are")
def _(folder: Path) -> None:
    called(folder, "model.ort")


@kind("a model that onnx would read as text", "model.textproto is named otherwise than models are")
def _(folder: Path) -> None:
    called(folder, "model.textproto")


@kind("weights from before the file", "takes weights from beyond the")
def _(folder: Path) -> None:
    manifest(folder, variants__fp32__data=["linear.safetensors"])
    weights_from(folder, "linear.safetensors", offset=-8)


# --- numbers that lead out of memory, or out of numbers -----------------------------------------------------------------------------------


def pointers(folder: Path, *middle: int) -> None:
    """Let the rows of the linear model's matrix begin at odd places; first and last are as they have to be, and differences wrap around."""

    def change(found: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        changed = found.copy()
        changed[1 : 1 + len(middle)] = np.array(middle, np.int64)
        return changed

    arrays(folder, "weights.indptr", change)


LARGEST, SMALLEST = 2**63 - 1, -(2**63)


@kind("rows that begin beyond all memory and wrap around", "its arrays do not fit together")
def _(folder: Path) -> None:
    pointers(folder, LARGEST, SMALLEST, -1)


@kind("rows that begin beyond the last number", "its arrays do not fit together")
def _(folder: Path) -> None:
    pointers(folder, 10_000_000)


@kind("rows that begin before the first number", "its arrays do not fit together")
def _(folder: Path) -> None:
    pointers(folder, -1)


@kind("weights beyond numbers", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "weights.data", lambda found: np.full_like(found, 3e38))


@kind("weights that are no numbers", "its arrays do not fit together")
def _(folder: Path) -> None:
    arrays(folder, "bias", lambda found: np.full_like(found, np.nan))


def header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a file of arrays says of them, and not their bytes."""
    content = (folder / "linear.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    told = json.loads(content[8 : 8 + length])
    change(told)
    new = json.dumps(told).encode()
    put(folder, "linear.safetensors", struct.pack("<Q", len(new)) + new + content[8 + length :])


@kind("arrays of eight bits", "its arrays do not fit together")
def _(folder: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        size = told["bias"]["data_offsets"][1] - told["bias"]["data_offsets"][0]
        told["bias"].update(dtype="F8_E4M3", shape=[size])

    header(folder, change)


@kind("arrays of four bits", "its arrays do not fit together")
def _(folder: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        size = told["bias"]["data_offsets"][1] - told["bias"]["data_offsets"][0]
        told["bias"].update(dtype="F4", shape=[2 * size])

    header(folder, change)


@kind("an array more", "its arrays do not fit together")
def _(folder: Path) -> None:
    save_file({**load_file(folder / "linear.safetensors"), "more": np.zeros(1, np.float32)}, folder / "linear.safetensors")
    signed(folder)


@kind("an array in two dimensions", "its arrays do not fit together")
def _(folder: Path) -> None:
    header(folder, lambda told: told["bias"].update(shape=[2, told["bias"]["shape"][0] // 2]))


@kind("a division that ends the process", "divides integers by 'attention_mask', which is no constant other than 0 and -1")
def _(folder: Path) -> None:
    with_operator(folder, helper.make_node("Div", ["input_ids", "attention_mask"], ["x"]))


@kind("a remainder that ends the process", "divides integers by 'input_ids'")
def _(folder: Path) -> None:
    with_operator(folder, helper.make_node("Mod", ["input_ids", "input_ids"], ["x"]))


@kind("a division by the constant -1", "divides integers by 'minus', which is no constant other than 0 and -1")
def _(folder: Path) -> None:
    def change(found: onnx.ModelProto) -> None:
        found.graph.initializer.append(helper.make_tensor("minus", TensorProto.INT64, [1], [-1]))
        found.graph.node.insert(0, helper.make_node("Div", ["input_ids", "minus"], ["x"]))

    model(folder, change)


@kind("a division whose divisor is one thing here and another there", "defines 'd' twice")
def _(folder: Path) -> None:
    one = helper.make_graph([helper.make_node("Sub", ["input_ids", "input_ids"], ["d"])], "then", [], [])
    two = helper.make_tensor("d", TensorProto.INT64, [1], [2])
    other = helper.make_graph([helper.make_node("Identity", ["d"], ["y"])], "else", [], [], [two])
    with_operator(folder, helper.make_node("If", ["input_ids"], ["x"], then_branch=one, else_branch=other))


def logits_as(folder: Path, *nodes: onnx.NodeProto, constants: Sequence[onnx.TensorProto] = ()) -> None:
    """Let the model's logits go through ``nodes``, from ``before`` to ``logits``."""

    def change(found: onnx.ModelProto) -> None:
        last = next(node for node in found.graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "before"
        found.graph.node.extend(nodes)
        found.graph.initializer.extend(constants)
        del found.graph.output[:]
        found.graph.output.append(helper.make_empty_tensor_value_info("logits"))

    model(folder, change)


@kind("logits of another type", "gives float64 of the shape")
def _(folder: Path) -> None:
    logits_as(folder, helper.make_node("Cast", ["before"], ["logits"], to=TensorProto.DOUBLE))


@kind("logits of another rank", "gives float32 of the shape")
def _(folder: Path) -> None:
    logits_as(folder, helper.make_node("Flatten", ["before"], ["logits"], axis=0))


@kind("logits of a scalar", "gives float32 of the shape ()")
def _(folder: Path) -> None:
    logits_as(folder, helper.make_node("ReduceSum", ["before"], ["logits"], keepdims=0))


@kind("as many logits as the text has tokens", "gives float32 of the shape")
def _(folder: Path) -> None:
    logits_as(folder, helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT))


@kind("an offset beyond numbers", "is damaged (blend.offset.0: Input should be less than or equal to 1000000000)")
def _(folder: Path) -> None:
    manifest(folder, blend__offset=[1e300, 0, 0, 0])


@kind("a weight beyond numbers", "is damaged (blend.lora: Input should be less than or equal to 1000000000)")
def _(folder: Path) -> None:
    manifest(folder, blend__lora=1e300)


@kind("a temperature of almost nothing", "is damaged (variants.fp32.confidence.temperature: Input should be greater than or equal to ")
def _(folder: Path) -> None:
    told = json.loads((folder / "adapter.json").read_text())
    manifest(folder, variants__fp32__confidence={**told["variants"]["fp32"]["confidence"], "temperature": 1e-300})


@kind("a time without its zone", "is damaged (created: Input should have timezone info)")
def _(folder: Path) -> None:
    manifest(folder, created="2026-01-01T00:00:00")


ESCAPES = "\x1b[31mred\x07"


@kind("a tokenizer that asks for a control code", "tokenizer.json cannot read a text (Unk token `")
def _(folder: Path) -> None:
    rewritten(folder, "tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": ESCAPES})


@kind("a tokenizer that grows and does not say by what", "its replacements make up to 100,000 characters of one")
def _(folder: Path) -> None:
    step = {"pattern": {"String": "a"}, "content": "a" * 10}
    rewritten(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * 5})


@kind("a tokenizer that puts much before each word", "its replacements make up to 101 characters of one")
def _(folder: Path) -> None:
    rewritten(folder, "tokenizer.json", normalizer={"type": "Prepend", "prepend": "a" * 100})


@kind("a tokenizer that panics where it reads", "tokenizer.json cannot read a text (chunk size must be non-zero)")
def _(folder: Path) -> None:
    rewritten(folder, "tokenizer.json", pre_tokenizer={"type": "FixedLength", "length": 0})


@kind("a tokenizer that panics where it is loaded", "tokenizer.json holds no tokenizer: Precompiled: Error(")
def _(folder: Path) -> None:
    rewritten(folder, "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})


@kind("normal forms of megabytes", "its table of normal forms makes long texts of single characters")
def _(folder: Path) -> None:
    table = base64.b64encode(struct.pack("<I", 4) + b"\0\0\0\0" + b"a" * 10_000 + b"\0").decode()
    rewritten(folder, "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": table})


@kind("scores that are no numbers", "metrics.json is damaged", when_labeling=False)
def _(folder: Path) -> None:
    rewritten(folder, "metrics.json", blend__accuracy__value=float("nan"))


# --- tests ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_was_run() -> Iterator[None]:
    yield
    assert not TRICKED.exists()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_tampering_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\nsteel cordless drill 18V\n")
    folder = copied(tmp_path)
    KINDS[name].tamper(folder)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(AdapterError) as raised:
        if KINDS[name].when_labeling:
            predict([str(tmp_path / "catalog.csv")], PredictOptions(str(tmp_path / "out.csv"), str(folder), device="cpu"))
        else:
            report([str(folder)])
    assert KINDS[name].sentence in str(raised.value)
    assert str(raised.value).startswith(str(folder))
    assert len(str(raised.value)) < 800
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_scores_of_no_products_are_reported(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    told = json.loads((folder / "metrics.json").read_text())
    told["promises"][0].update(products=0, missing=3, threshold=None)
    put(folder, "metrics.json", json.dumps(told).encode())
    assert report([str(folder)])


@pytest.mark.parametrize(
    ("code", "said"),
    [("os.kill(os.getpid(), 11)", "ends the sandbox process with the signal SIGSEGV"), ("os._exit(7)", "with exit code 7")],
)
def test_a_death_of_the_child_that_tries_an_adapter_out_becomes_a_sentence(tmp_path: Path, code: str, said: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"import os; print({READY.decode()!r}, flush=True); {code}"], stdout=subprocess.PIPE
    ) as child:
        with pytest.raises(AdapterError, match=said):
            SandboxRun(tmp_path, child, 2**30, 60).finish()


def test_a_child_that_does_not_start_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import nothing_of_this_name"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        with pytest.raises(CatcliError, match="the sandbox process, which tests adapters, does not start here") as raised:
            SandboxRun(tmp_path, child, 2**30, 60).finish()
    assert not isinstance(raised.value, AdapterError)


def test_a_child_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdout=subprocess.PIPE) as child:
        with pytest.raises(AdapterError, match="takes more than 0 seconds to load in the sandbox"):
            SandboxRun(tmp_path, child, 2**30, 0.01).finish()
        assert child.returncode == -9


def test_the_child_has_no_network_no_files_to_write_and_no_credentials() -> None:
    code = (
        "import os, socket, tempfile\n"
        "from catcli.inference.sandbox import limit_process\n"
        "limit_process(2**30, 60)\n"
        "for family in (socket.AF_INET, socket.AF_INET6):\n"
        "    try: socket.socket(family); print('a socket')\n"
        "    except PermissionError: print('refused')\n"
        "try:\n"
        "    with tempfile.TemporaryFile() as file: file.write(b'x')\n"
        "    print('a file')\n"
        "except OSError: print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["refused"] * 3, ran


def test_what_was_fitted_here_needs_no_child_until_it_is_touched(shop: Shop, tmp_path: Path) -> None:
    made = shop.fitted.adapter
    assert is_sealed(made)
    assert not is_sealed(load_adapter(Path(shutil.copytree(made.folder, tmp_path / "copied"))))
    assert not is_sealed(load_adapter(copied(tmp_path)))
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in made.folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert not is_sealed(Adapter(linked, made.manifest, made.fingerprint))
    own = tiny_fit(tmp_path / "tiny").adapter
    assert is_sealed(own)
    (own.folder / "model.onnx").touch()
    assert not is_sealed(own)


def test_a_seal_that_others_may_write_is_none(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        made = tiny_fit(tmp_path / "tiny").adapter
    finally:
        os.umask(before)
    seal = made.folder / ".made-here"
    assert stat.S_IMODE(seal.stat().st_mode) == 0o600
    assert stat.S_IMODE((made.folder / "model.onnx").stat().st_mode) == 0o664
    assert is_sealed(made)
    seal.chmod(0o620)
    assert not is_sealed(made)


def test_a_model_that_is_not_itself_on_this_processor_gives_way_to_fp32(tmp_path: Path) -> None:
    """int8 rounds otherwise on other instruction sets: no fault of the adapter, and none that the child would find."""
    folder = copied(tmp_path)
    shutil.copyfile(folder / "model.onnx", folder / "model.int8.onnx")
    told = json.loads((folder / "adapter.json").read_text())
    told["variants"]["int8"] = {**told["variants"]["fp32"], "file": "model.int8.onnx"}
    told["files"]["model.int8.onnx"] = ""
    (folder / "adapter.json").write_text(json.dumps(told))
    table(
        folder,
        "probe.parquet",
        lambda frame: frame.with_columns(int8=pl.Series([[9.0, 8.0, 7.0, 6.0]] * len(frame), dtype=pl.Array(pl.Float32, 4))),
    )
    labeler = Labeler(load_adapter(folder), "cpu")
    assert (labeler.variant, labeler.notes) == (
        "fp32",
        ["int8 gives other categories on this device than where the adapter was made; fp32 is used."],
    )


def test_no_control_code_of_an_adapter_reaches_a_terminal(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    KINDS["a tokenizer that asks for a control code"].tamper(folder)
    (tmp_path / "catalog.csv").write_text("title\nblue mug\n")
    ran = catcli("predict", "catalog.csv", "-o", "out.csv", "--adapter", folder, "--device", "cpu", cwd=tmp_path)
    assert ran.returncode == 1
    assert not set("\x1b\x07") & set(ran.stderr + ran.stdout)


def test_a_bug_s_traceback_has_no_control_codes() -> None:
    code = "from catcli.cli.lifecycle import plain_tracebacks\nplain_tracebacks()\nraise RuntimeError('\\x1b[31mred\\x07')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "RuntimeError: �[31mred�" in ran.stderr
    assert not set("\x1b\x07") & set(ran.stderr)


def test_the_session_reads_the_format_that_was_vetted(tmp_path: Path) -> None:
    """Bytes that are ONNX to protobuf and have the name of ONNX Runtime's own format at byte 4 are not run as the latter."""
    both = tmp_path / "model.onnx"
    both.write_bytes(b"\x08\x0a\x12\x06ORTM" + bytes(64))
    with pytest.raises(AdapterError, match="cannot be loaded by ONNX Runtime: .*(?i:protobuf|onnx)"):
        Session(both, "cpu")


def test_nothing_in_catcli_unpickles_or_runs_what_it_reads() -> None:
    forbidden = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "eval", "exec", "torch.load", "yaml.load"}
    found = []
    for file in sorted((Path(__file__).parents[1] / "catcli").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords} if isinstance(node, ast.Call) else {}
            risky = keywords.get("allow_pickle") == "True" or keywords.get("trust_remote_code") == "True"
            found += [f"{file.name}: {name}" for name in names if name in forbidden or risky]
    assert found == []


FILES = ["adapter.json", "linear.safetensors", "model.onnx", "tokenizer.json", "probe.parquet", "heldout.parquet", "metrics.json"]


def as_a_device(place: Path) -> None:
    try:
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # that of /dev/zero
    except PermissionError:
        pytest.skip("devices are made by root")


def as_a_folder(place: Path) -> None:
    place.mkdir()


FORMS: dict[str, Callable[[Path], object]] = {
    "a link": lambda place: place.symlink_to("../elsewhere"),
    "a link to a device": lambda place: place.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a device": as_a_device,
    "a folder": as_a_folder,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FILES)
def test_every_file_is_a_file_and_nothing_else(tmp_path: Path, name: str, form: str) -> None:
    folder = copied(tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    FORMS[form](folder / name)
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    with pytest.raises(AdapterError) as raised:
        if name in ("heldout.parquet", "metrics.json"):
            report([str(folder)])
        else:
            predict([str(tmp_path / "catalog.csv")], PredictOptions(str(tmp_path / "out.csv"), str(folder), device="cpu"))
    assert f"{name} is " in str(raised.value)


def test_another_owner_s_adapter_is_read_and_tried_out(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("files are given away by root")
    own = tiny_fit(tmp_path / "tiny").adapter
    for path in (own.folder, *own.folder.iterdir()):
        os.chown(path, 12_345, 12_345)
    assert not is_sealed(own)
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    assert predict([str(tmp_path / "catalog.csv")], PredictOptions(str(tmp_path / "out.csv"), str(own.folder), device="cpu")).rows == 1
