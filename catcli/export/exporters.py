"""A merged classifier → an ONNX graph: by Optimum's exporter, or where that cannot be imported by torch's own.

optimum-onnx 0.1 reaches into transformers 4.57 and cannot be imported beside transformers 5. What either gives passes the same parity gate.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch

from catcli.models.classifier import Classifier

OPSET = 18

MAX_INLINE_BYTES = 2**30
"""Bytes of weights in the ONNX file itself; protobuf holds no more than 2 GiB."""

TRACED_ROWS, TRACED_TOKENS = 2, 8
"""The size of what torch's exporter traces: it would take a dimension of one for a constant."""

_EXPECTED_WARNINGS = (
    # torch 2.9 made another exporter its default; optimum-onnx 0.1 asks for the TorchScript one, and torch says so at every export.
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed\. Please remove usage of this function",
    # The tracer cannot know that a shape that it compares is the same at every size; the parity gate looks at several sizes.
    r"Converting a tensor to a Python (boolean|integer) might cause the trace to be incorrect",
    r"torch\.tensor results are registered as constants in the trace",
    # torch's own exporter, of axes that both inputs have, and of its own tree library.
    r"# The axis name: \w+ will not be used, since it shares the same shape constraints",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Causal masks are looked up by position, which is never negative.
    r"Exporting aten::index operator of advanced indexing",
)

_EXPECTED_RECORDS = {
    None: "Please consider to run pre-processing before quantization",
    "torch.onnx._internal.exporter._registration": "torchvision is not installed",
    "onnxscript.optimizer._constant_folding": "Skipping constant folding for op",
}
"""By the names of loggers, None for the root, the beginning of what they say that is known and harmless."""


def to_onnx(classifier: Classifier, file: Path) -> None:
    """Export a merged classifier: inputs ``input_ids`` and ``attention_mask`` *(rows, tokens)*, output ``logits`` *(rows, classes)*."""
    classifier = classifier.cpu().eval()
    with expected_warnings():
        (_export_by_optimum if has_optimum() else _export_by_torch)(classifier, file)


def has_optimum() -> bool:
    """Whether Optimum's exporter can be imported beside the transformers that is installed."""
    try:
        import optimum.exporters.onnx.base  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Hide the warnings that are known and harmless, and no other."""
    filters = {logging.getLogger(name): _Without(text) for name, text in _EXPECTED_RECORDS.items()}
    for log, without in filters.items():
        log.addFilter(without)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for log, without in filters.items():
            log.removeFilter(without)


class _Without(logging.Filter):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self._text not in record.getMessage()


def _export_by_torch(classifier: Classifier, file: Path) -> None:
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    ids = torch.ones((TRACED_ROWS, TRACED_TOKENS), dtype=torch.int64)
    torch.onnx.export(
        classifier,
        (),
        str(file),
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {0: rows, 1: tokens}, "attention_mask": {0: rows, 1: tokens}},
        opset_version=OPSET,
        dynamo=True,
        external_data=_bytes(classifier) > MAX_INLINE_BYTES,
        verbose=False,
    )
    # What it notes of the shapes between operators is from before it folded some, and stops the quantizer, which infers them itself.
    graph = onnx.load(file, load_external_data=False)
    del graph.graph.value_info[:]
    onnx.save(graph, file)


def _bytes(classifier: Classifier) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in classifier.parameters())


def _export_by_optimum(classifier: Classifier, file: Path) -> None:
    from optimum.exporters.onnx import export

    export(classifier, _optimum_config(classifier), file, opset=OPSET)


def _optimum_config(classifier: Classifier) -> Any:  # noqa: ANN401  # optimum carries no types
    """The configuration that Optimum holds for the architecture, with our two inputs and one output in place of its own."""
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.exporters.tasks import TasksManager
    from optimum.utils import NormalizedTextConfig

    if classifier.config.model_type == "t5":  # Optimum's own is of an encoder with its decoder
        known = type("EncoderOnnxConfig", (TextEncoderOnnxConfig,), {"NORMALIZED_CONFIG_CLASS": NormalizedTextConfig})
    else:
        make = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=classifier.config.model_type, task="feature-extraction", library_name="transformers"
        )
        known = type(make(classifier.config))
    axes = {0: "rows", 1: "tokens"}
    inputs, outputs = {"input_ids": axes, "attention_mask": axes}, {"logits": {0: "rows"}}
    given = {"inputs": property(lambda _: inputs), "outputs": property(lambda _: outputs)}
    return type(f"Catcli{known.__name__}", (known,), given)(classifier.config, task="feature-extraction")
