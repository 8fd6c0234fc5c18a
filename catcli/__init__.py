"""catcli: label products with LoRA adapters, from labeled rows to a labeled catalog."""

from importlib.metadata import version

__version__ = version("catcli")
