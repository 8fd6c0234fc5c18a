"""Checks of a ``tokenizer.json`` from elsewhere: it must not make texts much longer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any


def is_tokenizers_error(error: BaseException) -> bool:
    """Whether an error is of the tokenizers library: a plain `Exception`, or a panic of its Rust code, which is none."""
    return (isinstance(error, Exception) and not isinstance(error, MemoryError)) or type(error).__name__ == "PanicException"


MAX_GROWTH = 64
"""Characters that the steps of a tokenizer may make of one, all together; those of published models make three."""

MAX_EXPANSION = 128
"""Bytes that a table of normal forms may put in the place of a character; Unicode's own are of 33 at most."""


def check_growth(text: str) -> None:
    """Refuse the ``text`` of a ``tokenizer.json`` that makes texts much longer: eight replacements of one letter by ten fill any memory.

    Raises:
        ValueError: it does, or is not JSON.
    """
    growth = 1
    for step in _steps(json.loads(text)):
        if "pattern" in step and "content" in step:
            growth *= max(1, len(str(step["content"])))
        growth *= 1 + len(str(step.get("prepend") or ""))
        if "precompiled_charsmap" in step and _longest_form(step["precompiled_charsmap"]) > MAX_EXPANSION:
            raise ValueError("its table of normal forms makes long texts of single characters")
    if growth > MAX_GROWTH:
        raise ValueError(f"its replacements make up to {growth:,} characters of one")


def _steps(document: object) -> Iterator[dict[str, Any]]:
    """The objects of a ``tokenizer.json`` outside its vocabulary, whether they name their type or not: tokenizers does without."""
    waiting = [document]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict):
            yield step
            waiting += [value for name, value in step.items() if name not in ("vocab", "merges", "added_tokens")]
        elif isinstance(step, list):
            waiting += step


def _longest_form(table: object) -> int:
    """The longest normal form in SentencePiece's precompiled table: four bytes that say how long its trie is, the trie, and the forms."""
    content = base64.b64decode(table) if isinstance(table, str) else b""
    return max(map(len, content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")), default=0)
