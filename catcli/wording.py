"""How sentences show numbers: counts, shares, confidences and durations."""

from __future__ import annotations

import unicodedata

import numpy as np

JOINERS = "\u200c\u200d"
"""Format characters that shape letters and emoji and do nothing else; those that turn a line around are not among them."""


def per_cent(value: float, digits: int = 1) -> str:
    """``95.2 %``; with two ``digits``, for shares near 0, ``0.14 %``."""
    return f"{100 * value:.{digits}f} %"


def count_noun(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``, ``2 categories``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("ry") else f"{number:,} {noun}s"


def format_confidence(threshold: float) -> str:
    """A threshold in as few digits as ``--min-confidence`` needs to accept the same rows: confidences are float32."""
    return np.format_float_positional(np.float32(threshold), unique=True, min_digits=3)


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2.5 h``: as precise as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """Text without control characters: a product's title must not move the cursor or color the terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n" + JOINERS or unicodedata.category(letter)[0] != "C" else "�" for letter in text)
