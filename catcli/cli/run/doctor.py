"""``catcli doctor``: what this machine has."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib import resources
from pathlib import Path

from catcli.adapter.folder import package_versions
from catcli.adapter.store import adapter_folders
from catcli.cli.console import Console
from catcli.errors import CatcliError
from catcli.logs import LOGGER
from catcli.paths import store_folder
from catcli.reporting import tables
from catcli.wording import count_noun

LABELS = {"embedded_model": "embedded model", "gpu_of_torch": "GPU (torch)", "gpu_of_onnxruntime": "GPU (onnxruntime)"}
"""What the table calls the facts whose names in JSON are not words to read."""


NOT_HERE = "not installed: this environment labels and reports, and does not train"


def doctor(*, as_json: bool = False, console: Console) -> dict[str, str]:
    """Look at the processor, the GPU as torch and ONNX Runtime see it, the embedded model and the versions; problems are named."""
    import onnxruntime

    facts = {
        "python": f"{platform.python_version()} at {sys.executable}",
        "processor": _processor(),
        **_gpu(),
        "embedded_model": _embedded(),
    }
    facts["store"] = f"{store_folder().resolve()}, {count_noun(len(adapter_folders()), 'adapter')}"
    facts["docs"] = str(resources.files("catcli") / "docs")
    facts.update(package_versions())
    if as_json:
        console.print_json(json.dumps(facts))
        return facts
    console.print(tables.fact_table("catcli doctor", {LABELS.get(name, name): fact for name, fact in facts.items()}))
    LOGGER.debug(f"providers that this build of onnxruntime lists: {', '.join(onnxruntime.get_available_providers())}")
    return facts


def _processor() -> str:
    from catcli.inference.session import available_cores

    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = {word for line in info.read_text().splitlines() if line.startswith("flags") for word in line.split()}
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{available_cores()} cores, {platform.machine()} {' '.join(known)}".strip()


def _gpu() -> dict[str, str]:
    session = _session()  # first: with torch comes CUDA, which predict has to find without torch
    try:
        import torch
    except ModuleNotFoundError:
        return {"gpu_of_torch": NOT_HERE, "gpu_of_onnxruntime": session}
    torch_gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"gpu_of_torch": torch_gpu, "gpu_of_onnxruntime": session}


def _session() -> str:
    """What a session really gets, which is not what the list of providers promises."""
    import onnxruntime
    from onnx import TensorProto, helper, save

    from catcli.inference.cuda import CUDA_PROVIDER, has_gpu
    from catcli.inference.session import Session

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "none: this build of onnxruntime has no CUDA provider"
    if not has_gpu():
        return "none: there is no NVIDIA device here"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "identity.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
        session = Session(file, "auto")
    if session.provider == CUDA_PROVIDER:
        return f"a session gets {CUDA_PROVIDER}"
    return f"a session falls back to {session.provider} ({session.no_cuda}): check that the CUDA 13 libraries and cuDNN are installed"


def _embedded() -> str:
    try:
        from catcli.models.bases import MINILM

        MINILM.check()
    except ModuleNotFoundError:
        return NOT_HERE
    except CatcliError as error:
        return str(error)
    return f"{MINILM.hub}, weights as published"
