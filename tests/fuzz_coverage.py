"""What reads bytes of strangers, under a fuzzer that follows coverage (atheris, which is libFuzzer for Python).

``python tests/fuzz_coverage.py TARGET CORPUS -runs=N`` begins from the files of CORPUS, made from the fixture where it is empty, and ends
with exit code 0 after N executions. A crash, an error without a sentence, more than a gigabyte of memory or thirty seconds for one input
end it with another, and leave the input beside. Options are libFuzzer's. Figures stand in tests/bench/README.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

with atheris.instrument_imports(include=["catcli"]):
    from catcli.adapter.parquet import HASH_TYPE, TEXT_TYPE, logits_type, read_columns
    from catcli.adapter.vetting import check_model
    from catcli.data.io.journal import read_journal
    from catcli.errors import AdapterError
    from catcli.inference.ngrams import LinearModel

FIXTURE = Path(__file__).parent / "fixtures" / "adapter-format-4"
SHM = Path("/dev/shm")
SCRATCH = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))


def put(name: str, data: bytes) -> Path:
    file = SCRATCH / name
    file.write_bytes(data)
    return file


def small_model() -> bytes:
    """The fixture's model with weights of one number each: the fuzzer changes its graph, and not its weights."""
    model = onnx.load(FIXTURE / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            tensor.raw_data = tensor.raw_data[:4]
            tensor.dims[:] = [1]
    return bytes(model.SerializeToString())


def vetting(data: bytes) -> None:
    with suppress(AdapterError):
        check_model(put("model.onnx", data), ())


def linear(data: bytes) -> None:
    with suppress(AdapterError):
        LinearModel.load(put("linear.safetensors", data)).logits(["blue coffee mug 500 ml", ""])


ARRAYS = load_file(FIXTURE / "linear.safetensors")


def arrays(data: bytes) -> None:
    """A sound file of arrays, some of whose numbers are the fuzzer's: what a mutated header never comes to."""
    words = atheris.FuzzedDataProvider(data)
    changed = {name: values.copy() for name, values in ARRAYS.items()}
    for _ in range(words.ConsumeIntInRange(1, 6)):
        name = words.PickValueInList(sorted(changed))
        if words.ConsumeBool():
            changed[name] = changed[name][: words.ConsumeIntInRange(0, len(changed[name]))]
        size = changed[name].dtype.itemsize
        for _ in range(min(words.ConsumeIntInRange(0, 4), len(changed[name]))):
            value = words.ConsumeBytes(size).ljust(size, b"\0")
            changed[name][words.ConsumeIntInRange(0, len(changed[name]) - 1)] = np.frombuffer(value, changed[name].dtype)[0]
    save_file(changed, SCRATCH / "linear.safetensors")
    with suppress(AdapterError):
        LinearModel.load(SCRATCH / "linear.safetensors").logits(["blue coffee mug 500 ml", ""])


def probe(data: bytes) -> None:
    with suppress(AdapterError):
        read_columns(put("probe.parquet", data), {"text": TEXT_TYPE, "fp32": logits_type(4)}, 16)


def heldout(data: bytes) -> None:
    types = {"text": TEXT_TYPE, "product": HASH_TYPE, "lora_logits": logits_type(4)}
    with suppress(AdapterError):
        read_columns(put("heldout.parquet", data), types, 1_000_000)


def journal(data: bytes) -> None:
    with suppress(ValueError, TypeError, KeyError):  # what `Parts` makes a sentence of
        read_journal(put("journal.jsonl", data))


JOURNAL = (
    '{"made_from": {"the options": "0a"}, "files": {"0123456789ab": "x.csv"}}\n'
    '{"part": "0123456789ab-000000-000000", "counts": {"rows": 9, "categories": {"mug": 9}}}'
)

TARGETS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "vetting": (vetting, small_model()),
    "arrays": (arrays, b""),
    "linear": (linear, (FIXTURE / "linear.safetensors").read_bytes()),
    "probe": (probe, (FIXTURE / "probe.parquet").read_bytes()),
    "heldout": (heldout, (FIXTURE / "heldout.parquet").read_bytes()),
    "journal": (journal, f"{JOURNAL}\n".encode()),
}


def main() -> None:
    """Fuzz the target that the command line names."""
    name, corpus, *options = sys.argv[1:]
    target, seed = TARGETS[name]
    folder = Path(corpus)
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        (folder / "seed").write_bytes(seed)
    limits = [f"-max_len={max(4096, 2 * len(seed))}", "-rss_limit_mb=1024", "-timeout=30", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], corpus, *limits, *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
