"""Categories that no labeled row has: how many rows they may get."""

from __future__ import annotations

import numpy as np

from catcli.arrays import FloatArray

MAX_SHARE = 0.01
"""Share of the labeled rows, which are all of other categories, that get a category without rows at most."""

USUAL_QUANTILE = 0.98
"""Where the scores of a category without rows are made alike, among those of all labeled rows: some names are like many titles."""


def bounding_offset(logits: FloatArray, with_rows: int) -> FloatArray:
    """What to add to the logits of the categories without rows *(without rows,)*, so that they have few of the labeled rows.

    ``logits`` *(rows, classes)* are of rows that the models have not seen, first those of the ``with_rows`` categories. At most `MAX_SHARE`
    of these rows then have a category without rows on top.
    """
    if logits.shape[1] == with_rows or not len(logits):
        return np.zeros(logits.shape[1] - with_rows, np.float32)
    ahead = logits[:, with_rows:] - logits[:, :with_rows].max(axis=1, keepdims=True)
    usual = np.quantile(ahead, USUAL_QUANTILE, axis=0)
    most = (ahead - usual).max(axis=1)
    # Of fewer rows than show so small a share, the highest is too low: a deviation more keeps other rows below.
    margin = most.std() if len(most) * MAX_SHARE < 1 else 0.0
    return np.asarray(-usual - np.quantile(most, 1 - MAX_SHARE, method="higher") - margin, np.float32)


def widened(offset: FloatArray, with_rows: int) -> FloatArray:
    """The offset of all classes *(classes,)*: nothing for those with rows."""
    return np.concatenate((np.zeros(with_rows, np.float32), offset))
