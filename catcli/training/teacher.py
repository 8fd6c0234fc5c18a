"""A teacher: an adapter whose probabilities another one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from catcli.adapter.store import find_adapter
from catcli.data.dataset.examples import UNLABELED, Examples
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.split import Split
from catcli.errors import AdapterError, name_list
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.heldout import HeldOutRows
from catcli.inference.labeler import Labeler
from catcli.logs import LOGGER
from catcli.models.losses import TeacherTargets, soften

TEXTS_PER_CALL = 1024
"""Texts that are labeled at once."""


class Teacher:
    """The blend of an adapter, with its probabilities mapped to the categories of the labeled rows."""

    def __init__(self, name: str, categories: Sequence[str], device: str) -> None:
        """Load the adapter ``name``.

        Raises:
            AdapterError: it is not an adapter, or knows none of ``categories``.
        """
        self.adapter = find_adapter(name)
        self._labeler = Labeler(self.adapter, device, max_change=0)
        for note in self._labeler.notes:
            LOGGER.warning(note)
        known = {category: number for number, category in enumerate(self._labeler.categories)}
        known_numbers = [number for number, category in enumerate(categories) if category in known]
        if not known_numbers:
            raise AdapterError(
                f"--teacher {name} knows none of the {len(categories):,} categories of the labeled rows ({name_list(categories, 3)}); its "
                f"own are {name_list(known, 3)}: choose an adapter that was fitted on the same ones."
            )
        self._count = len(categories)
        self._unknown = np.array([category not in known for category in categories])
        self._mine = np.array(known_numbers)
        self._its = np.array([known[categories[number]] for number in known_numbers])
        sentence = f"teacher: {self.adapter.folder}, {self._labeler.variant} on {self._labeler.provider}"
        LOGGER.info(
            sentence
            if len(known_numbers) == len(categories)
            else f"{sentence}; it knows {len(known_numbers):,} of the {len(categories):,} categories"
        )

    def targets(self, examples: Examples, advance: Callable[[int], None] = lambda _: None) -> TeacherTargets:
        """What it says of every text, `soften` *(texts, classes)*; ``advance`` hears of texts done.

        Of an example whose category it does not know it says nothing: all that it could say is another one.
        """
        targets = np.zeros((len(examples), self._count), np.float16)
        for start in range(0, len(examples), TEXTS_PER_CALL):
            rows = slice(start, start + TEXTS_PER_CALL)
            probabilities = np.zeros((len(targets[rows]), self._count), np.float32)
            probabilities[:, self._mine] = self._labeler.probabilities(examples.texts[rows])[:, self._its]
            targets[rows] = soften(probabilities)
            advance(min(start + TEXTS_PER_CALL, len(examples)))
        targets[(examples.classes != UNLABELED) & self._unknown[examples.classes]] = 0
        return targets

    def warn_of_leaks(self, labeled: LabeledRows, split: Split) -> None:
        """Warn where the teacher was trained on rows that score its student: these scores would be too high."""
        held_out_products = labeled.products(split.held_out)
        its = HeldOutRows.load(self.adapter.file("heldout.parquet"), self.adapter.manifest.categories).products
        refit = FitMetrics.of(self.adapter).training.refit
        clean = np.zeros(len(held_out_products), np.bool_) if refit else np.isin(held_out_products, its)
        if not clean.all():
            since = "was refitted on all of its rows" if refit else "held other rows back"
            LOGGER.warning(
                f"the teacher {since}, so it may have been trained on {int((~clean).sum()):,} of the {len(clean):,} rows that are held out "
                "here, and the scores may be too high; a teacher fitted on the same rows with --no-refit and the same --split-seed was not."
            )
