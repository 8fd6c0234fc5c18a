"""The store: adapters by name, in ``./adapters`` or the folder that ``CATCLI_ADAPTERS`` names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from catcli.adapter.folder import Adapter, load_adapter
from catcli.adapter.manifest import MANIFEST
from catcli.errors import AdapterError, did_you_mean, name_list
from catcli.paths import store_folder


def adapter_folders() -> list[Path]:
    """The adapter folders of the store by name, whole or not."""
    root = store_folder()
    entries = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in entries if (path / MANIFEST).is_file() and not path.name.startswith("."))


def stored_adapters() -> list[Adapter]:
    """The adapters of the store that can be loaded, newest first; `catcli adapters list` names the others."""
    adapters = []
    for folder in adapter_folders():
        with suppress(AdapterError):
            adapters.append(load_adapter(folder))
    return sorted(adapters, key=lambda adapter: (adapter.manifest.created, adapter.name), reverse=True)


def find_adapter(name: str) -> Adapter:
    """The adapter that ``name`` means: a folder, else the one of that name in the store.

    Raises:
        AdapterError: there is none.
    """
    if Path(name).is_dir():
        return load_adapter(Path(name))
    if (store_folder() / name).is_dir():
        return load_adapter(store_folder() / name)
    names = [adapter.name for adapter in stored_adapters()]
    have = (
        f"{store_folder()} holds {name_list(names)}{did_you_mean(name, names)}"
        if names
        else f"{store_folder()} holds none: 'catcli fit' makes one"
    )
    raise AdapterError(f"there is no adapter {name!r}; {have}.")


def only_adapter() -> Adapter:
    """The one adapter of the store.

    Raises:
        AdapterError: there is none, or there are several to choose from.
    """
    adapters = stored_adapters()
    if not adapters:
        raise AdapterError(f"{store_folder()} holds no adapter; 'catcli fit products.csv' makes one, --adapter FOLDER names one elsewhere.")
    if len(adapters) > 1:
        raise AdapterError(f"{store_folder()} holds several adapters ({name_list(a.name for a in adapters)}); choose one with --adapter.")
    return adapters[0]


def newest_adapter() -> Adapter:
    """The adapter of the store that was made last.

    Raises:
        AdapterError: there is none.
    """
    adapters = stored_adapters()
    if not adapters:
        raise AdapterError(f"{store_folder()} holds no adapter; 'catcli fit products.csv' makes one.")
    return adapters[0]
