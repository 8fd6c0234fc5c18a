"""Options of every command that labels: the device and the variant of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from catcli.config import Flag, check_device, check_variant
from catcli.data.io.input_options import InputOptions


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(InputOptions):
    """On which device and in which precision an adapter computes, and how the rows are read."""

    device: Annotated[str, Flag(metavar="DEVICE")] = "auto"
    """auto, cpu or cuda. auto takes the GPU if there is one."""
    variant: str = "auto"
    """auto, fp32, fp16 or int8. auto takes int8 on a CPU and fp16 on a GPU where the adapter has it and it gives the same categories on
    this machine, else fp32."""

    def check_compute(self) -> None:
        """Raise `UsageError` for a device or a variant that there is not."""
        check_device(self.device)
        check_variant(self.variant)
