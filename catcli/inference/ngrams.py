"""texts → the linear model's features: TF-IDF of words, word pairs and character n-grams.

The features are those of scikit-learn's ``TfidfVectorizer`` (words: ``ngram_range=(1, 2)``; characters: ``analyzer="char_wb"``,
``ngram_range=(2, 5)``; both with ``sublinear_tf=True``; a test holds the two equal). They are computed here over whole batches in numpy,
for two reasons: a vocabulary kept as sorted 64-bit hashes is an array, so an adapter needs no pickle, and labeling starts without importing
scikit-learn and takes its n-grams several times faster (tests/bench/README.md).

An n-gram's hash is a sum of mixed character codes modulo 2**64. Two n-grams of a vocabulary of one million share a hash with a probability
of about 3e-8 (birthday bound), so the hash stands for the n-gram.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from catcli.arrays import HashArray, IntArray
from catcli.errors import AdapterError, reason

MAX_NGRAM = 5
"""Characters of the longest character n-gram; the shortest has two."""

MAX_PREFIX_BITS, SPARE_PREFIX_BITS = 22, 3
"""Bits of the prefixes by which a hash is looked up: so many more than number the hashes, and at most 32 MB of table."""

MAX_BUCKET = 64
"""Hashes with one prefix, at most: of evenly spread ones there are five at the most."""

MAX_DENSE_BYTES = 2**26
"""Bytes of a linear model's weights, features times classes, up to which they are held dense."""

CHUNK_TEXTS = 8192
"""Texts whose n-grams are held at once while a vocabulary is learned."""

_SPACE = np.uint32(ord(" "))
# Odd constants with no meaning but to keep the three kinds of n-gram, and the order inside one, apart.
_WORD_SEED, _PAIR_SEED, _CHARACTER_SEED, _LATER = (
    np.uint64(seed) for seed in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
)


def mix_bits(values: HashArray) -> HashArray:
    """SplitMix64's finalizer (Steele, Lea & Flood, OOPSLA 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@functools.cache
def _is_word() -> npt.NDArray[np.bool_]:
    """Whether a code point of the basic plane is a word character, as Python's ``re`` has it."""
    return np.fromiter((chr(code).isalnum() or code == ord("_") for code in range(0x10000)), dtype=np.bool_, count=0x10000)


@dataclass(frozen=True)
class _EncodedTexts:
    """Texts laid end to end: every text in lower case, words parted by one space, a space before and after.

    ``codes`` and ``rows`` have shape *(characters,)*: the code point and the number of its text.
    """

    codes: npt.NDArray[np.uint32]
    rows: IntArray


def _encode(texts: Sequence[str]) -> _EncodedTexts:
    padded = [f" {' '.join(text.lower().split())} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    lengths = np.fromiter((len(text) for text in padded), dtype=np.int64, count=len(padded))
    return _EncodedTexts(codes, np.repeat(np.arange(len(padded)), lengths))


def word_ngrams(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """Words of two or more word characters, and pairs of neighboring words: their hashes and the numbers of their texts."""
    laid = _encode(texts)
    codes, rows = laid.codes, laid.rows
    inside = np.where(codes < 0x10000, _is_word()[np.minimum(codes, 0xFFFF)], True)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], inside, [False])).view(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= 2
    starts, ends = starts[long], ends[long]
    if not len(starts):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(_positioned(codes, inside), dtype=np.uint64)))
    words = mix_bits((sums[ends] - sums[starts]) ^ _WORD_SEED)
    owner = rows[starts]
    together = owner[1:] == owner[:-1]
    pairs = mix_bits(words[:-1] * _PAIR_SEED + words[1:])[together]
    return np.concatenate((words, pairs)), np.concatenate((owner, owner[1:][together]))


def _positioned(codes: npt.NDArray[np.uint32], inside: npt.NDArray[np.bool_]) -> HashArray:
    """A hash of every character together with its place in its word, so that a sum over the word tells anagrams apart."""
    index = np.arange(len(codes), dtype=np.int64)
    start = np.maximum.accumulate(np.where(inside, -1, index))
    return mix_bits(codes.astype(np.uint64) | ((index - start).astype(np.uint64) << np.uint64(32)))


def character_ngrams(texts: Sequence[str]) -> tuple[HashArray, IntArray]:
    """Character n-grams inside words padded with one space on each side: their hashes and the numbers of their texts."""
    laid = _encode(texts)
    codes, rows = laid.codes, laid.rows
    space = codes == _SPACE
    characters = mix_bits(codes.astype(np.uint64) + _CHARACTER_SEED)
    hashes, owners = [], []
    window, within = characters, np.ones(len(codes), np.bool_)
    for size in range(2, MAX_NGRAM + 1):
        count = max(0, len(codes) - size + 1)
        # A window may begin and end with a space but hold none between them; two spaces alone stand between two texts.
        inner = space[:count] & space[1 : count + 1] if size == 2 else space[size - 2 : size - 2 + count]
        within = within[:count] & ~inner
        window = mix_bits(window[:count] * _LATER + characters[size - 1 : size - 1 + count])
        hashes.append(window[within])
        owners.append(rows[:count][within])
    return np.concatenate(hashes), np.concatenate(owners)


@dataclass(frozen=True)
class Vocabulary:
    """The n-grams of one kind that occur in the training rows.

    ``hashes`` has shape *(n-grams,)* and rises; ``idf`` has the same shape and holds ``ln((1 + rows) / (1 + rows with it)) + 1``, the
    smooth inverse document frequency of scikit-learn's ``TfidfTransformer``.
    """

    hashes: HashArray
    idf: npt.NDArray[np.float32]

    @cached_property
    def _buckets(self) -> IntArray | None:
        """Where the hashes of each prefix begin *(prefixes + 1,)*; None where some prefix has many, as no sum of mixed bits gives."""
        bits = min(MAX_PREFIX_BITS, len(self.hashes).bit_length() + SPARE_PREFIX_BITS)
        prefixes = np.arange(2**bits + 1, dtype=np.uint64)
        starts = np.searchsorted(self.hashes >> np.uint64(64 - bits), prefixes).astype(np.int64)
        return starts if np.diff(starts).max() <= MAX_BUCKET else None

    def find(self, hashes: HashArray) -> tuple[IntArray, IntArray]:
        """Which of ``hashes`` *(n-grams,)* are in it, and where: places in ``hashes``, rising, and columns.

        A table of prefixes leads to the one or two hashes that a hash can equal; a binary search would look at twenty.
        """
        starts = self._buckets
        if starts is None:
            nearest = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            known = np.flatnonzero(self.hashes[nearest] == hashes)
            return known, nearest[known]
        bucket = (hashes >> np.uint64(64 - (len(starts) - 1).bit_length() + 1)).astype(np.int64)
        columns, ends = starts[bucket], starts[bucket + 1]
        places = np.flatnonzero(columns < ends)
        columns, ends, sought = columns[places], ends[places], hashes[places]
        found = self.hashes[columns]
        while len(later := np.flatnonzero((found < sought) & (columns + 1 < ends))):
            columns[later] += 1
            found[later] = self.hashes[columns[later]]
        known = np.flatnonzero(found == sought)
        return places[known], columns[known]

    def vectors(self, hashes: HashArray, rows: IntArray, count: int) -> sparse.csr_matrix:
        """Sublinear TF-IDF of the n-grams found in ``count`` texts, each row of unit length: *(count, n-grams)*."""
        width = len(self.hashes)
        if not width:
            return sparse.csr_matrix((count, 0), dtype=np.float32)
        places, columns = self.find(hashes)
        cells = rows[places] * width + columns
        cells.sort()  # a sort of numbers is twice as fast as scipy's way from coordinates to rows
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        frequency = np.diff(first, append=len(cells)).astype(np.float32)
        owners, columns = np.divmod(cells[first], width)
        data = (1 + np.log(frequency)) * self.idf[columns]
        lengths = np.sqrt(np.bincount(owners, np.square(data), count))
        data /= np.maximum(lengths, np.finfo(np.float32).tiny)[owners].astype(np.float32)
        return sparse.csr_matrix((data, columns, np.searchsorted(owners, np.arange(count + 1))), shape=(count, width))


EXTRACTORS: tuple[Callable[[Sequence[str]], tuple[HashArray, IntArray]], ...] = (word_ngrams, character_ngrams)


@dataclass(frozen=True)
class Ngrams:
    """Texts → one sparse row each: the vocabularies of `EXTRACTORS`, side by side."""

    vocabularies: tuple[Vocabulary, ...]

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """Learn the n-grams of ``texts`` and how rare each is."""
        return cls(tuple(_learn_vocabulary(kind, texts) for kind in EXTRACTORS))

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """``texts`` as a matrix of shape *(texts, features)*, float32."""
        blocks = [vocabulary.vectors(*kind(texts), len(texts)) for kind, vocabulary in zip(EXTRACTORS, self.vocabularies, strict=True)]
        return sparse.hstack(blocks, format="csr")


def _learn_vocabulary(kind: Callable[[Sequence[str]], tuple[HashArray, IntArray]], texts: Sequence[str]) -> Vocabulary:
    once = []
    for start in range(0, len(texts), CHUNK_TEXTS):
        hashes, rows = kind(texts[start : start + CHUNK_TEXTS])
        order = np.lexsort((rows, hashes))
        hashes, rows = hashes[order], rows[order]
        first = np.ones(len(hashes), np.bool_)
        first[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
        once.append(hashes[first])
    vocabulary, frequency = np.unique(np.concatenate(once), return_counts=True)
    return Vocabulary(vocabulary, (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32))


@dataclass(frozen=True)
class LinearModel:
    """N-grams and one weight vector per category.

    ``weights`` *(features, classes)* is sparse: of a support vector machine's weights over n-grams some 97 % are so near zero that no
    decision depends on them. ``bias`` has shape *(classes,)*.
    """

    ngrams: Ngrams
    weights: sparse.csr_matrix
    bias: npt.NDArray[np.float32]

    @property
    def parameters(self) -> int:
        """Numbers that were learned and kept."""
        return int(self.weights.nnz) + len(self.bias)

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Decision values *(texts, classes)*; their scale is set by the blend, whose weight for them is fitted."""
        matrix = self.ngrams.transform(texts)
        product = (matrix @ self.weights).toarray() if self._dense_weights is None else matrix @ self._dense_weights
        return np.asarray(product + self.bias, dtype=np.float32)

    @cached_property
    def _dense_weights(self) -> npt.NDArray[np.float32] | None:
        """The weights as one array, by which texts are multiplied in half the time or less; None where it would be large."""
        size = 4 * self.weights.shape[0] * self.weights.shape[1]
        return self.weights.toarray() if size <= MAX_DENSE_BYTES else None

    def save(self, file: Path) -> None:
        """As safetensors: arrays only, nothing that runs."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "weights.data": self.weights.data.astype(np.float32),
            "weights.indices": self.weights.indices.astype(np.int32),
            "weights.indptr": self.weights.indptr.astype(np.int64),
            "bias": self.bias.astype(np.float32),
        }
        for number, vocabulary in enumerate(self.ngrams.vocabularies):
            arrays[f"ngrams.{number}.hashes"] = vocabulary.hashes
            arrays[f"ngrams.{number}.idf"] = vocabulary.idf
        save_file(arrays, file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """What `save` wrote.

        Raises:
            AdapterError: the file is something else; an index that leads out of an array would crash the process instead.
        """
        damaged = AdapterError(
            f"{file} is not a linear model of catcli: its arrays do not fit together; copy the adapter again, or fit a new one."
        )
        try:
            arrays = _read_arrays(file)
        except (SafetensorError, OSError) as error:
            raise AdapterError(
                f"{file} cannot be read as a linear model: {reason(error)}; copy the adapter again, or fit a new one."
            ) from error
        if arrays is None:
            raise damaged
        vocabularies = tuple(
            Vocabulary(arrays[f"ngrams.{number}.hashes"], arrays[f"ngrams.{number}.idf"]) for number in range(len(EXTRACTORS))
        )
        data, indices, indptr, bias = (arrays[name] for name in ("weights.data", "weights.indices", "weights.indptr", "bias"))
        features = sum(len(vocabulary.hashes) for vocabulary in vocabularies)
        sound = (
            all(len(part.hashes) == len(part.idf) and is_increasing(part.hashes, strictly=True) for part in vocabularies)
            and (len(indptr), len(indices)) == (features + 1, len(data))
            and (indptr[0], indptr[-1]) == (0, len(data))
            and is_increasing(indptr)
            and bool(((indices >= 0) & (indices < len(bias))).all())
            # A NaN compares as false, and no sum of so many products overflows float32.
            and all(bool((np.abs(array) <= MAX_WEIGHT).all()) for array in (data, bias, *(part.idf for part in vocabularies)))
        )
        if not sound:
            raise damaged
        return cls(Ngrams(vocabularies), sparse.csr_matrix((data, indices, indptr), shape=(features, len(bias))), bias)


MAX_WEIGHT = 1e9
"""The largest weight of a linear model that is believed; fitted ones are below a hundred."""

_TYPES = {"data": "F32", "bias": "F32", "idf": "F32", "indices": "I32", "indptr": "I64", "hashes": "U64"}
"""What the arrays of a saved model hold, by the last word of their names, as safetensors calls it."""

_NAMES = {
    *("weights.data", "weights.indices", "weights.indptr", "bias"),
    *(f"ngrams.{number}.{name}" for number in range(len(EXTRACTORS)) for name in ("hashes", "idf")),
}


def _read_arrays(file: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a saved model; None where names, types or shapes are others, which the header says before anything is read."""
    with safe_open(file, framework="numpy") as stored:
        slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118  # a file, not a mapping
        header = {name: (array_slice.get_dtype(), len(array_slice.get_shape())) for name, array_slice in slices.items()}
        if header != {name: (_TYPES[name.rpartition(".")[2]], 1) for name in _NAMES}:
            return None
        return {name: stored.get_tensor(name) for name in slices}


def is_increasing(numbers: npt.NDArray[Any], *, strictly: bool = False) -> bool:
    """Whether an array's neighbors rise; by comparison, since differences of 64-bit numbers wrap around."""
    later, earlier = numbers[1:], numbers[:-1]
    return bool((later > earlier if strictly else later >= earlier).all())
