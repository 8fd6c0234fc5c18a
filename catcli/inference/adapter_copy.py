"""``catcli adapters export``: a copy of an adapter to hand on, with the rows that it carries or without a word of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from catcli.adapter import signing
from catcli.adapter.folder import Adapter, load_adapter
from catcli.adapter.manifest import FORMAT, Variant
from catcli.adapter.store import find_adapter
from catcli.adapter.writer import adapter_draft, check_target
from catcli.arrays import FloatArray
from catcli.errors import AdapterError
from catcli.evaluation.heldout import HeldOutRows
from catcli.inference.labeler import PROBE_ROWS, Labeler, save_probe
from catcli.logs import log_event

ROWS = frozenset({"heldout.parquet", "probe.parquet"})
"""The files that hold texts of products."""


def copy_adapter(name: str, output: Path, *, without_rows: bool = False, key: Path | None = None, force: bool = False) -> Adapter:
    """Copy an adapter to the folder ``output``, every file checked on the way.

    With ``without_rows`` the held-out rows keep their logits, categories and product hashes, by which the copy is reported, but not their
    texts; and the probe rows, by which it is tried out where it is loaded, are categories' names in place of products.

    With a private ``key`` the copy is signed: see `catcli.adapter.signing`.

    Raises:
        UsageError: there is no such key.
        AdapterError: there is no such adapter, a file of it is damaged, or the output is taken.
        OutputError: the output cannot be written.
    """
    private = None if key is None else signing.load_private_key(key)
    adapter = find_adapter(name)
    check_target(output, force)
    if output.resolve().is_relative_to(adapter.folder.resolve()):
        raise AdapterError(f"-o {output} lies in the adapter that is exported; name a folder beside it.")
    size = adapter.verify()
    with adapter_draft(output) as draft:
        for file in adapter.manifest.files:
            if not without_rows or file not in ROWS:
                shutil.copyfile(adapter.file(file), draft.folder / file)
        if without_rows:
            _write_without_rows(adapter, draft.folder)
        draft.manifest = adapter.manifest.model_copy(update={"format": FORMAT} if without_rows else {})
        if private is not None:
            draft.finish = lambda folder: signing.sign_adapter(folder, private)
    log_event("exported", bytes=size, adapter=adapter.fingerprint, folder=str(output))
    return load_adapter(output)


def _write_without_rows(adapter: Adapter, folder: Path) -> None:
    manifest = adapter.manifest
    heldout = HeldOutRows.load(adapter.file("heldout.parquet"), manifest.categories)
    replace(heldout, texts=[""] * len(heldout.texts)).save(folder / "heldout.parquet", manifest.categories, manifest.blend)
    texts, logits = manifest.categories[:PROBE_ROWS], dict[Variant, FloatArray]()
    for variant in manifest.variants:
        # Loaded as predict does, vetted and tried out: what is written has to be what the adapter computes.
        labeler = Labeler(adapter, "cpu", variant)
        logits[variant] = labeler.lora(labeler.tokenize(texts))
    save_probe(folder / "probe.parquet", texts, logits)
