"""``--apply``: the categories that a person filled in for texts of a review."""

from __future__ import annotations

import numpy as np
import polars as pl

from catcli.adapter.manifest import Manifest
from catcli.data.dataset.reviewed import ReviewedRows, known_names
from catcli.errors import ProductsError
from catcli.inference.known_labels import KnownLabels, text_hashes
from catcli.inference.planning import LabelingPlan


def load_applied_labels(file: str, manifest: Manifest, plan: LabelingPlan) -> KnownLabels:
    """The labels of a reviewed file, by text, with a confidence of 1.

    Raises:
        ProductsError: it is no reviewed file of such a catalog, a category is unknown, or a text has two.
    """
    reviewed = ReviewedRows.read(file, "--apply")
    labels = plan.labels(manifest.categories)
    numbers = {name: number for number, name in enumerate(labels)}
    by_id = {identifier: name for name, identifier in manifest.category_ids.items() if name in numbers}
    spelled = known_names(labels)
    names = reviewed.check_known(
        lambda name: spelled(name) or by_id.get(name),
        labels,
        "Correct these cells; a category that is new to the adapter is learned by fit --corrections.",
    )
    texts = reviewed.texts([column for column in plan.text if column is not None], plan.prices)
    seen: dict[str, int] = {}
    for place, text in enumerate(texts):
        if not text:
            continue
        earlier = seen.setdefault(text, place)
        if names[earlier] != names[place]:
            raise ProductsError(
                f"{reviewed.where}: rows {reviewed.numbers[earlier]:,} and {reviewed.numbers[place]:,} are the same text, and one is "
                f"{names[earlier]!r}, the other {names[place]!r}; fill in the same category."
            )
    with_text = [place for place, text in enumerate(texts) if text]  # a row without text says nothing of another one
    hashes = text_hashes(pl.Series([texts[place] for place in with_text], dtype=pl.String))
    classes = np.array([numbers[names[place]] for place in with_text], np.int32)
    return KnownLabels.of([(hashes, classes, np.ones(len(classes), np.float32))])
