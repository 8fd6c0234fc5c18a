"""``catcli doctor``: what this machine has."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from rich.text import Text

from catcli import adapter as adapters
from catcli.commands.talk import Talk
from catcli.errors import CatcliError
from catcli.reporting import tables


def doctor(*, as_json: bool = False, talk: Talk | None = None) -> dict[str, str]:
    """Look at the processor, the GPU as torch and ONNX Runtime see it, the embedded model and the versions; problems are named."""
    talk = talk or Talk.silent()
    facts = {
        "python": f"{platform.python_version()} at {sys.executable}",
        "processor": _processor(),
        **_gpu(),
        "embedded model": _embedded(),
    }
    facts["store"] = f"{adapters.store().resolve()}, {len(adapters.folders())} adapters"
    facts.update(adapters.versions())
    if as_json:
        print(json.dumps(facts))
        return facts
    made = tables.table("catcli doctor", "", "", names=2)
    for fact, value in facts.items():
        made.add_row(fact, Text(tables.printable(value)))
    talk.out.print(made)
    return facts


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = {word for line in info.read_text().splitlines() if line.startswith("flags") for word in line.split()}
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{cores} cores, {platform.machine()} {' '.join(known)}".strip()


def _gpu() -> dict[str, str]:
    import onnxruntime
    import torch

    from catcli.runtime.session import CUDA, has_gpu

    seen = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    built = CUDA in onnxruntime.get_available_providers()
    if not built:
        session = "CPU only: this build has no CUDA provider"
    elif not has_gpu():
        session = "CPU: built for CUDA, but there is no NVIDIA device here"
    else:
        session = "built for CUDA, and there is an NVIDIA device; 'predict -v' says what a session gets"
    return {"GPU (torch)": seen, "onnxruntime": session}


def _embedded() -> str:
    from catcli.models.backbones import BACKBONES

    base = BACKBONES["minilm"]
    try:
        base.check()
    except CatcliError as error:
        return str(error)
    return f"{base.hub}, weights as published"
