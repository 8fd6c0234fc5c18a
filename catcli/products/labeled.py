"""Labeled rows, ready to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catcli.products.categories import Categories


@dataclass(frozen=True)
class Labeled:
    """One text, one class number and one product key a row; ``read`` rows there were, of which ``unlabeled`` had no category."""

    texts: list[str]
    classes: npt.NDArray[np.int64]
    keys: list[str]
    categories: Categories
    read: int
    unlabeled: int
