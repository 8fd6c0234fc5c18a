"""The columns that ``predict`` adds to a catalog."""

from __future__ import annotations

import itertools
import json

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.inference.planning import LabelingPlan

PREDICTED, PREDICTED_ID, CONFIDENCE = "predicted_category", "predicted_category_id", "confidence"
LEVEL, ALTERNATIVES = "predicted_level", "alternatives"


def result_columns(
    names: pl.Series,
    ids: pl.Series | None,
    classes: npt.NDArray[np.int32],
    confidences: npt.NDArray[np.float32],
    accepted: npt.NDArray[np.bool_],
    plan: LabelingPlan,
) -> pl.DataFrame:
    """What is added to rows: a category that is not accepted is null. ``classes`` and ``confidences`` have shape *(rows, k)*.

    ``names`` and ``ids`` are those of the classes; without ``ids`` there is no column for them. A class that fills a row, since a person
    gave it, is one alternative.
    """
    indices = pl.Series(classes[:, 0]).set(~pl.Series(accepted), None)
    added = [names.gather(indices).alias(PREDICTED)]
    if ids is not None:
        added.append(ids.gather(indices).alias(PREDICTED_ID))
    added.append(pl.Series(CONFIDENCE, confidences[:, 0]))
    back_off = plan.choice.back_off
    if back_off is not None:
        added.append(pl.Series(LEVEL, back_off.tree.levels, dtype=pl.Int32).gather(indices).alias(LEVEL))
    if plan.alternatives > 1:
        first = int(back_off is not None)
        chosen = slice(first, first + plan.alternatives)
        classes, confidences = classes[:, chosen], confidences[:, chosen]
        labels_and_confidences = zip(names.gather(classes.ravel()).to_list(), confidences.ravel().tolist(), strict=True)
        k = classes.shape[1]
        pairs = [
            [{"category": name, "confidence": value} for name, value in dict(itertools.islice(labels_and_confidences, k)).items()]
            for _ in range(len(classes))
        ]
        if plan.alternatives_as_json:
            cells = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
            added.append(pl.Series(ALTERNATIVES, cells, dtype=pl.String))
        else:
            kind = pl.List(pl.Struct({"category": pl.String, "confidence": pl.Float32}))
            added.append(pl.Series(ALTERNATIVES, pairs, dtype=kind))
    return pl.DataFrame(added)


def empty_result_columns(plan: LabelingPlan) -> pl.DataFrame:
    """Our columns without a row."""
    names = pl.Series([], dtype=pl.String)
    ids = names if plan.ids else None
    return result_columns(names, ids, np.empty((0, 1), np.int32), np.empty((0, 1), np.float32), np.empty(0, np.bool_), plan)
