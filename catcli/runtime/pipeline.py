"""read → label → write: a catalog in, the same catalog with categories out, a batch at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from catcli.products.read import Source
from catcli.products.text import compose
from catcli.products.write import Sink
from catcli.runtime.labeler import Labeler, Labels

PREDICTED, CONFIDENCE, ALTERNATIVES = "predicted_category", "confidence", "alternatives"

Advance = Callable[[int, float], None]
"""Called after every batch with the rows labeled so far and the share of the input read, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """What to do with each row.

    ``text`` are the catalog's columns in the order of the adapter's text columns; one that is None is missing and counts as empty.
    ``drop`` are columns that ours replace.
    """

    text: tuple[str | None, ...]
    top_k: int = 1
    min_confidence: float = 0.0
    drop: tuple[str, ...] = ()
    alternatives_as_json: bool = False


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    ``below`` counts rows whose confidence was below the one asked for, ``blank`` those without any text, ``short`` those of CSV with fewer
    cells than the header.
    """

    rows: int
    below: int
    blank: int
    short: int
    seconds: float
    categories: Mapping[str, int]


def run(source: Source, sink: Sink, labeler: Labeler, plan: Plan, advance: Advance) -> Summary:
    """Label all rows of ``source`` and write them to ``sink`` in their order. Memory is that of a batch, whatever the catalog's size."""
    started = time.perf_counter()
    rows = below = blank = short = 0
    counts: dict[str, int] = {}
    for batch in source.batches(labeler.rows):
        texts = compose(batch.frame, [column for column in plan.text if column is not None])
        frame = batch.frame.drop(plan.drop)
        labels = labeler.label(texts, plan.top_k)
        labeled = with_labels(frame, labels, labeler.categories, plan)
        sink.write(labeled)
        rows += len(frame)
        below += labeled[PREDICTED].null_count()
        blank += sum(not text for text in texts)
        short += batch.short
        for category, count in labeled[PREDICTED].drop_nulls().value_counts().iter_rows():
            counts[category] = counts.get(category, 0) + count
        advance(rows, batch.share)
    ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return Summary(rows, below, blank, short, time.perf_counter() - started, ordered)


def with_labels(frame: pl.DataFrame, labels: Labels, categories: Sequence[str], plan: Plan) -> pl.DataFrame:
    """The rows with our columns after theirs; a category below the confidence asked for is null."""
    names = np.array(categories, dtype=object)
    confidence = labels.confidences[:, 0]
    predicted = names[labels.classes[:, 0]]
    predicted[confidence < plan.min_confidence] = None
    added = [pl.Series(PREDICTED, predicted.tolist(), dtype=pl.String), pl.Series(CONFIDENCE, confidence, dtype=pl.Float32)]
    if plan.top_k > 1:
        pairs = [
            [{"category": names[number], "confidence": float(value)} for number, value in zip(numbers, values, strict=True)]
            for numbers, values in zip(labels.classes, labels.confidences, strict=True)
        ]
        kind = pl.List(pl.Struct({"category": pl.String, "confidence": pl.Float32}))
        if plan.alternatives_as_json:
            added.append(pl.Series(ALTERNATIVES, [json.dumps(pair, ensure_ascii=False) for pair in pairs], dtype=pl.String))
        else:
            added.append(pl.Series(ALTERNATIVES, pairs, dtype=kind))
    return frame.with_columns(added)
