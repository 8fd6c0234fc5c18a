"""Category names that are paths (``Toys > Games > Chess``) ↔ the tree that they spell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from catcli.arrays import FloatArray, IntArray
from catcli.config import MAX_LEVELS
from catcli.errors import ProductsError, UsageError

SEPARATORS = (" > ", " >> ", "|", "/")
"""Separators that are found by themselves."""

SPACED_SHARE, BARE_SHARE = 0.5, 0.9
"""Share of the names that have to have a separator with blanks around it, and one that may stand within a word (``TV/Video``)."""

MAX_NODES = 500_000
"""Nodes of a tree: Shopify's has 11,000."""


def split_path(name: str, separator: str | None) -> tuple[str, ...]:
    r"""The parts of a path that are not empty. A backslash before a separator's sign makes it a part of the name: ``TV\/Video/Cables``.

    Without a separator names are flat: the name is the one part.
    """
    if separator is None:
        return (name,)
    sign = separator.strip()
    before, _, after = separator.partition(sign)
    parts = re.split(rf"{re.escape(before)}(?<!\\){re.escape(sign)}{re.escape(after)}", name)
    return tuple(part.strip() for part in parts if part.strip()) or (name,)


def _common_prefix(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all paths begin with; each keeps one part at least."""
    first, last, shortest = min(paths), max(paths), min(map(len, paths))
    return next((place for place in range(shortest - 1) if first[place] != last[place]), shortest - 1) if len(paths) > 1 else 0


def find_separator(names: Sequence[str]) -> str | None:
    """The separator that makes paths of ``names``; None where they are flat.

    It has to stand in most of them, and some of them have to share what stands before it: ``Watches/Jewelry`` alone is no tree. A root that
    all of them share does not count.
    """
    for separator in SEPARATORS:
        paths = [split_path(name, separator) for name in names]
        root = _common_prefix(paths)
        deep = [path[root:] for path in paths if len(path) > root + 1]
        share = BARE_SHARE if separator == separator.strip() else SPACED_SHARE
        if len({path[0] for path in deep}) < len(deep) and len(deep) >= share * len(paths):
            return separator
    return None


def chosen_separator(names: Sequence[str], wanted: str | None) -> str | None:
    """The separator that the user gives, or the one that is found; None where ``names`` are flat, or are to be taken as such.

    Raises:
        UsageError: it is blank, or no name has it.
    """
    if wanted is None:
        return find_separator(names)
    if not wanted:
        return None
    if not wanted.strip():
        raise UsageError("--separator is blank; write the sign between the parts of a category, such as ' > ', or '' for flat names.")
    if not any(len(split_path(name, wanted)) > 1 for name in names):
        raise UsageError(
            f"--separator {wanted!r}: no category has it, the first is {names[0]!r}; write the one that they have, or '' for flat names."
        )
    return wanted


@dataclass(frozen=True)
class CategoryTree:
    """The tree of some categories: nodes are numbered, first the categories by class number, then what stands above them and is none.

    ``paths`` *(nodes,)* are the nodes' full names, ``parents`` *(nodes,)* the numbers of the nodes above, -1 at the first level. ``root``
    are the parts that all categories begin with: they tell nothing, so the first level is the one below.
    """

    separator: str
    root: tuple[str, ...]
    classes: int
    paths: tuple[str, ...]
    parents: IntArray

    @classmethod
    def of(cls, categories: Sequence[str], separator: str) -> CategoryTree:
        """The tree that the paths of ``categories`` spell; a category can be a node above others, too.

        Raises:
            ProductsError: it has more than `MAX_NODES` nodes.
        """
        split = [split_path(name, separator) for name in categories]
        root = split[0][: _common_prefix(split)]
        keys = [_levels(path[len(root) :], separator) for path in split]
        numbers: dict[tuple[str, ...], int] = {}
        for number, key in enumerate(keys):
            numbers.setdefault(key, number)
        paths = list(categories)
        for key in list(keys):
            for end in range(len(key) - 1, 0, -1):
                if key[:end] not in numbers:
                    numbers[key[:end]] = len(paths)
                    paths.append(separator.join((*root, *key[:end])))
                    keys.append(key[:end])
            if len(paths) > MAX_NODES:
                raise ProductsError(
                    f"the paths of {len(categories):,} categories have more than the {MAX_NODES:,} nodes that are read; pass "
                    "--separator '' to take them as flat names."
                )
        parents = np.array([numbers[key[:-1]] if len(key) > 1 else -1 for key in keys], np.int64)
        return cls(separator, root, len(categories), tuple(paths), parents)

    def key(self, path: str) -> tuple[str, ...]:
        """The parts of a path below the root, of any category or node."""
        parts = split_path(path, self.separator)
        return _levels(parts[len(self.root) :] if parts[: len(self.root)] == self.root else parts, self.separator)

    @cached_property
    def levels(self) -> IntArray:
        """The level of each node *(nodes,)*: 1 for those with nothing above."""
        levels, above = np.ones(len(self.paths), np.int64), self.parents.copy()
        while (above >= 0).any():
            inner = above >= 0
            levels[inner] += 1
            above[inner] = self.parents[above[inner]]
        return levels

    @property
    def depth(self) -> int:
        """The level of the deepest node."""
        return int(self.levels.max())

    @cached_property
    def ancestors(self) -> IntArray:
        """The node of each node at each level *(nodes, depth)*; below a node's own level itself."""
        lineage = np.tile(np.arange(len(self.paths))[:, None], (1, self.depth))
        for level in range(self.depth - 1, 0, -1):
            below = self.levels[lineage[:, level]] > level
            lineage[:, level - 1] = np.where(below, self.parents[lineage[:, level]], lineage[:, level])
        return lineage

    @cached_property
    def _order(self) -> IntArray:
        """The classes *(classes,)* in an order in which those below any node stand together."""
        return np.lexsort(self.ancestors[: self.classes].T[::-1])

    @cached_property
    def _cuts(self) -> list[tuple[IntArray, IntArray]]:
        """For each level its nodes *(cut,)*, and where their classes begin in that order *(cut,)*."""
        cuts = []
        for nodes in self.ancestors[self._order].T:
            starts = np.flatnonzero(np.diff(nodes, prepend=-1))
            cuts.append((nodes[starts], starts))
        return cuts

    def ordered(self, probabilities: FloatArray) -> FloatArray:
        """The probabilities *(rows, classes)* in the order that `sums` takes them in."""
        return np.take(probabilities, self._order, axis=1)

    def sums(self, ordered: FloatArray, level: int) -> tuple[IntArray, FloatArray]:
        """The nodes at which ``level`` cuts the tree *(cut,)*, and the sums of their classes' probabilities *(rows, cut)*.

        ``ordered`` is what `ordered` gives. A category above that level is a node of the cut by itself.
        """
        nodes, starts = self._cuts[level - 1]
        return nodes, np.add.reduceat(ordered, starts, axis=1)


def _levels(path: tuple[str, ...], separator: str) -> tuple[str, ...]:
    """A path of at most `MAX_LEVELS` parts."""
    return path if len(path) <= MAX_LEVELS else (*path[: MAX_LEVELS - 1], separator.join(path[MAX_LEVELS - 1 :]))
