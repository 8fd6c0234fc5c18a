"""catcli: label products with LoRA adapters, from labeled rows to a labeled catalog."""

import os
from importlib.metadata import PackageNotFoundError, version

# Before any of these libraries is imported, in this process and in those that it starts: none of them is to report its use to anybody.
# ONNX Runtime 1.31 would keep a device id and a queue of events below HOME, and send them after a minute.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    RAY_USAGE_STATS_ENABLED="0",
    DO_NOT_TRACK="1",
)

try:
    __version__ = version("catcli")
except PackageNotFoundError:  # the folder of the code, without an installation
    __version__ = "0+unknown"
