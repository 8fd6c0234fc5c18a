"""``--previous``: the labels of an earlier output, taken over where the same adapter made them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.data.dataset.text import row_text_series
from catcli.data.io.source import open_source
from catcli.errors import ProductsError
from catcli.inference.engines import Engine
from catcli.inference.known_labels import KnownLabels, text_hashes
from catcli.inference.planning import LabelingPlan
from catcli.inference.result_columns import CONFIDENCE, LEVEL, PREDICTED
from catcli.logs import LOGGER

CHECKED_ROWS = 256
"""Rows of an earlier output that are labeled again, to see whether this adapter made it."""

MAX_DIFFERENCE, MAX_REDUCED_DIFFERENCE, MIN_AGREEMENT = 1e-3, 0.06, 0.98
"""Confidences of one adapter differ by no more than this from run to run (int8 scales by the batch), in so large a share of rows."""


def load_previous_labels(file: str, engine: Engine, plan: LabelingPlan) -> KnownLabels | None:
    """The labels of an earlier output of this adapter; none where another made it.

    With a back-off rows that are not sure enough any more are left out: an output of a lower precision has them, too.
    """
    source = open_source([file])
    text = [column for column in plan.text if column is not None]
    back_off = plan.choice.back_off
    number = {name: index for index, name in enumerate(plan.labels(engine.categories))}
    sample, decided = list[str](), list[str]()
    unsure = 0

    def rows() -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        nonlocal unsure
        for batch in source.batches():
            missing = [name for name in (*text, PREDICTED, CONFIDENCE) if name not in batch.columns]
            if missing:
                raise ProductsError(
                    f"--previous {source.name} has no column {missing[0]!r}; it has to be an output of catcli predict for this catalog, "
                    "with the text columns in it."
                )
            if (LEVEL in batch.columns) != (back_off is not None):
                how = "without --back-off (it has no" if back_off is not None else "with --back-off (it has a"
                raise ProductsError(
                    f"--previous {source.name} was labeled {how} column {LEVEL!r}), whose labels are others; give an output of the same "
                    "options."
                )
            frame = batch.select(list(dict.fromkeys([*text, PREDICTED, CONFIDENCE])))
            texts = row_text_series(frame, text, plan.prices)
            classes = frame[PREDICTED].cast(pl.String).replace_strict(number, default=None, return_dtype=pl.Int32)
            sure = frame[CONFIDENCE].cast(pl.Float32, strict=False)
            unsure += int((classes.is_not_null() & sure.is_null()).sum())
            enough = sure >= np.float32(back_off.threshold) if back_off is not None else sure.is_not_null()
            usable = (classes.is_not_null() & enough.fill_null(value=False)).to_numpy()
            yield text_hashes(texts)[usable], classes.fill_null(0).to_numpy()[usable], sure.fill_null(0).to_numpy()[usable]
            by_model = pl.Series(usable & (sure.fill_null(0) < 1).to_numpy())  # a confidence of 1 is that of a person
            if len(sample) < CHECKED_ROWS:
                sample.extend(texts.filter(by_model).unique(maintain_order=True).head(CHECKED_ROWS - len(sample)).to_list())
            if not sample:
                decided.extend(texts.filter(pl.Series(usable)).head(CHECKED_ROWS - len(decided)).to_list())

    previous = KnownLabels.of(rows())
    if not len(previous):
        problem = f"no number in {CONFIDENCE!r} beside a category" if unsure else "no row with a category of this adapter"
        LOGGER.warning(f"--previous {source.name} has {problem}; all rows are labeled")
        return None
    sample = sample or decided
    places = previous.find(text_hashes(pl.Series(sample, dtype=pl.String)))
    before, confidence_before = previous.classes[places], previous.confidences[places]
    now = engine.label(sample, plan.choice)
    tolerance = MAX_DIFFERENCE if engine.variant == "fp32" else MAX_REDUCED_DIFFERENCE
    close = np.abs(now.confidences[:, 0] - confidence_before[:, 0]) <= tolerance
    same = float(((now.classes[:, 0] == before[:, 0]) & close).mean())
    if same < MIN_AGREEMENT:
        LOGGER.warning(
            f"--previous {source.name} was labeled by another adapter, from other text or with other options, such as --max-change: "
            f"{same:.0%} of {len(sample)} rows tried again come out alike; all rows are labeled"
        )
        return None
    return previous
