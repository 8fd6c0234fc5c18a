"""Texts that tell one product, or variants of it, from another: what is near-equal is decided once.

Two steps. Texts are equal after case, punctuation, word order, numbers, sizes and colors are folded. Of what remains, texts whose sets of
words overlap by `MIN_OVERLAP` (Jaccard) are near-equal. Candidates are found by MinHash (Broder 1997, "On the resemblance and containment
of documents") in bands (Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", section 3.4), and the overlap itself decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli.arrays import HashArray, IntArray

MIN_OVERLAP = 0.8
"""Share of the words of two texts, folded, that both have, from which on they are near-equal."""

BANDS, ROWS_PER_BAND = 16, 4
"""Texts are compared that agree in all minima of some band: of those that overlap by .8 all but one in 4,000 do, by .5 two in three."""

MIN_WORDS = 3
"""Words, after folding, from which on equal ones tell one product: many products share fewer."""

MAX_LEADERS = 32
"""Texts of a band that a new one is compared with: thousands of titles of one pattern share a band, and hardly any are near-equal."""

_SIZES = "xxs xs s m l xl xxl xxxl small medium large big mini size sizes"
_UNITS = (
    "mm cm m km in inch inches ft feet foot yd g gr gm gms kg mg lb lbs oz ounce ounces ml cl l ltr litre liter litres liters gal "
    "w watt watts v volt volts mah gb tb mb hz ghz mhz pack packs pcs pc pieces piece set count ct pk pair pairs x"
)
_COLORS = (
    "black white red blue green yellow orange pink purple violet brown grey gray beige silver gold golden navy cyan turquoise magenta "
    "maroon ivory cream khaki multicolor multicolour color colour colors colours "
    "schwarz weiss weiß rot blau grün gelb rosa lila braun grau silber farbe "
    "noir blanc rouge bleu vert jaune rose marron gris couleur negro blanco rojo azul verde amarillo nero bianco rosso"
)
FOLDED_WORDS = tuple(sorted({*_SIZES.split(), *_UNITS.split(), *_COLORS.split()}))
"""Words that tell variants of one product from another: sizes, units and colors."""

_FOLDED = rf"\b(?:{'|'.join(map(re.escape, FOLDED_WORDS))})\b"


def folded_texts(texts: pl.Series) -> pl.Series:
    """Each text's different words in order, without numbers, sizes, units and colors; where nothing else is left, all of its words."""
    words = pl.col("text").str.normalize("NFC").str.to_lowercase().str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ")
    kept = words.str.replace_all(r"\S*\p{N}\S*", " ").str.replace_all(_FOLDED, " ")
    chosen = pl.when(kept.str.contains(r"\p{L}")).then(kept).otherwise(words)
    in_order = chosen.str.extract_all(r"\S+").list.unique().list.sort().list.join(" ")
    return pl.DataFrame({"text": texts}).select(folded=in_order)["folded"]


def group_near_equal(folded: Sequence[str], kinds: IntArray, min_overlap: float = MIN_OVERLAP) -> IntArray:
    """For each of some different folded texts the number of the first one that it is near-equal to *(texts,)*; of that its own.

    Texts of different ``kinds`` *(texts,)* are never near-equal. What is near-equal to the first of a group joins it, and not what is
    near-equal to another member, so no group drifts.
    """
    first = np.arange(len(folded))
    if not len(folded):
        return first
    bands = _band_hashes(folded)
    words = [frozenset(text.split()) for text in folded]
    leaders: dict[tuple[int, int, int], list[int]] = {}
    for number, own in enumerate(words):
        places = [(int(kinds[number]), band, value) for band, value in enumerate(bands[number].tolist())]
        candidates = {leader for place in places for leader in leaders.get(place, ())}
        overlaps = ((len(own & words[leader]) / len(own | words[leader]), -leader) for leader in candidates)
        overlap, leader = max(overlaps, default=(0.0, 0))
        if overlap >= min_overlap:
            first[number] = -leader
            continue
        for place in places:
            others = leaders.setdefault(place, [])
            if len(others) < MAX_LEADERS:
                others.append(number)
    return first


def _band_hashes(folded: Sequence[str]) -> HashArray:
    """Hashes of each text's minima *(texts, bands)*."""
    words = pl.DataFrame({"word": folded}).select(pl.col("word").str.split(" "))
    counts = words["word"].list.len().to_numpy()
    hashes = words["word"].explode().hash(11).to_numpy()
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    random = np.random.default_rng(0)
    bands = np.zeros((len(folded), BANDS), np.uint64)
    for band in range(BANDS):
        for _ in range(ROWS_PER_BAND):
            factor, shift = random.integers(1, 2**63, 2, dtype=np.uint64)
            minima: npt.NDArray[np.uint64] = np.minimum.reduceat(hashes * (factor | np.uint64(1)) + shift, starts)
            bands[:, band] = bands[:, band] * np.uint64(0x9E3779B97F4A7C15) + (minima ^ (minima >> np.uint64(29)))
    return bands
