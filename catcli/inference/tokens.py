"""texts → batches of token ids, of like length, under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from catcli.adapter.tokenizer_check import check_growth, is_tokenizers_error
from catcli.arrays import IntArray
from catcli.errors import AdapterError, reason


@dataclass(frozen=True)
class TokenBatch:
    """``ids`` and ``mask`` have shape *(rows, tokens)*; ``rows`` *(rows,)* are the numbers of the texts they came from."""

    ids: IntArray
    mask: IntArray
    rows: IntArray

    def halves(self) -> tuple[TokenBatch, TokenBatch]:
        """Two batches of half as many texts, in the same order."""
        middle = len(self.rows) // 2
        first, second = (TokenBatch(self.ids[part], self.mask[part], self.rows[part]) for part in (slice(middle), slice(middle, None)))
        return first, second


class Tokenizer:
    """A tokenizer of the ``text`` of a ``tokenizer.json``, cutting texts at ``max_tokens``, special tokens included.

    The Rust tokenizer itself rather than transformers' wrapper: the same class serves training and labeling, and labeling starts without
    transformers.
    """

    @classmethod
    def load(cls, file: Path, max_tokens: int, pad_id: int) -> Self:
        """That of an adapter.

        Raises:
            AdapterError: the file holds none.
        """
        try:
            return cls(file.read_text(encoding="utf-8"), max_tokens, pad_id, str(file))
        except BaseException as error:
            if not is_tokenizers_error(error):
                raise
            raise AdapterError(f"{file} holds no tokenizer: {reason(error)[:300]}; copy the adapter again, or fit a new one.") from error

    def __init__(self, text: str, max_tokens: int, pad_id: int = 0, name: str = "the base's tokenizer") -> None:
        check_growth(text)
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.json = text
        self.name = name
        self.max_tokens = max_tokens
        self.pad_id = pad_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, at most ``max_tokens`` each."""
        return self.encode_counting(texts)[0]

    def encode_counting(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of every text, and how many texts were cut."""
        # A lone surrogate is not a character and the tokenizer refuses it; it becomes U+FFFD as in every other decoder.
        clean = [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        try:
            encodings = self._tokenizer.encode_batch_fast(clean)
        except BaseException as error:
            if not is_tokenizers_error(error):
                raise
            raise AdapterError(
                f"{self.name} cannot read a text ({reason(error)[:300]}): it is damaged; copy the adapter, or the base, again."
            ) from error
        # An empty text has a token all the same; GPT-2's tokenizer, which adds none of its own, would give it none.
        ids = [encoding.ids or [self.pad_id] for encoding in encodings]
        full = (encoding for encoding, row in zip(encodings, ids, strict=True) if len(row) == self.max_tokens)
        return ids, sum(bool(encoding.overflowing) for encoding in full)

    def batches(self, ids: Sequence[Sequence[int]], budget: int, *, same_length: bool = False) -> Iterator[TokenBatch]:
        """All of ``ids``, shortest first, so many rows a batch that rows times the longest stays within ``budget`` tokens (or one row).

        With ``same_length`` all rows of a batch are of one length, so that none is padded.
        """
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        start = 0
        while start < len(order):
            end, shortest = start + 1, len(ids[order[start]])
            while (
                end < len(order)
                and (end + 1 - start) * len(ids[order[end]]) <= budget
                and (not same_length or len(ids[order[end]]) == shortest)
            ):
                end += 1
            yield self.padded(ids, order[start:end])
            start = end

    def padded(self, ids: Sequence[Sequence[int]], rows: Sequence[int]) -> TokenBatch:
        """The chosen rows as one batch, padded on the right to its longest."""
        width = max(len(ids[row]) for row in rows)
        batch = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for position, row in enumerate(rows):
            batch[position, : len(ids[row])] = ids[row]
            mask[position, : len(ids[row])] = 1
        return TokenBatch(batch, mask, np.asarray(rows, dtype=np.int64))
