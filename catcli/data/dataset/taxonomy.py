"""Category names that are paths (``Toys > Games > Chess``) ↔ the tree that they spell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from catcli.arrays import FloatArray, IntArray
from catcli.config import FLAT, MAX_LEVELS
from catcli.errors import UsageError

SEPARATORS = (" > ", " >> ", "|", "/")
"""Separators that are found by themselves."""

SPACED_SHARE, BARE_SHARE = 0.5, 0.9
"""Share of the names that have to have a separator with blanks around it, and one that may stand within a word (``TV/Video``)."""


def split_path(name: str, separator: str) -> tuple[str, ...]:
    r"""The parts of a path. A backslash before a separator's sign makes it a part of the name: ``TV\/Video/Cables`` has two parts."""
    sign = re.escape(separator.strip() or separator)
    before = re.escape(separator[: len(separator) - len(separator.lstrip())]) if separator.strip() else ""
    after = re.escape(separator[len(separator.rstrip()) :]) if separator.strip() else ""
    return tuple(part.strip() for part in re.split(rf"{before}(?<!\\){sign}{after}", name))


def find_separator(names: Sequence[str]) -> str | None:
    """The separator that makes paths of ``names``; None where they are flat.

    It has to stand in most of them, and some of them have to share what stands before it: ``Watches/Jewelry`` alone is no tree.
    """
    for separator in SEPARATORS:
        paths = [split_path(name, separator) for name in names]
        deep = [path for path in paths if len(path) > 1 and all(path)]
        share = BARE_SHARE if separator == separator.strip() else SPACED_SHARE
        if deep and len(deep) >= share * len(paths) and len({path[0] for path in deep}) < len(deep):
            return separator
    return None


def chosen_separator(names: Sequence[str], wanted: str | None) -> str | None:
    """The separator that the user gives, or the one that is found; None where ``names`` are flat, or are to be taken as such.

    Raises:
        UsageError: it is blank, or no name has it.
    """
    if wanted is None:
        return find_separator(names)
    if wanted == FLAT:
        return None
    if not wanted.strip():
        raise UsageError("--separator is blank; write the sign between the parts of a category, such as ' > ', or none for flat names.")
    if not any(len(split_path(name, wanted)) > 1 for name in names):
        raise UsageError(f"--separator {wanted!r}: no category has it, the first is {names[0]!r}; write the one that they have, or none.")
    return wanted


def _levels(path: tuple[str, ...], separator: str) -> tuple[str, ...]:
    """A path of at most `MAX_LEVELS` parts."""
    return path if len(path) <= MAX_LEVELS else (*path[: MAX_LEVELS - 1], separator.join(path[MAX_LEVELS - 1 :]))


@dataclass(frozen=True)
class CategoryTree:
    """The tree of some categories: nodes are numbered, first the categories by class number, then what stands above them and is none.

    ``paths`` *(nodes,)* are the nodes' full names, ``parents`` *(nodes,)* the numbers of the nodes above, -1 at the first level.
    """

    separator: str
    classes: int
    paths: tuple[str, ...]
    parents: IntArray

    @classmethod
    def of(cls, categories: Sequence[str], separator: str) -> CategoryTree:
        """The tree that the paths of ``categories`` spell; a category can be a node above others, too."""
        parts = [_levels(split_path(name, separator), separator) for name in categories]
        numbers: dict[tuple[str, ...], int] = {}
        for number, path in enumerate(parts):
            numbers.setdefault(path, number)
        paths, keys = list(categories), list(parts)
        for path in parts:
            for end in range(len(path) - 1, 0, -1):
                if path[:end] not in numbers:
                    numbers[path[:end]] = len(paths)
                    paths.append(separator.join(path[:end]))
                    keys.append(path[:end])
        parents = np.array([numbers[key[:-1]] if len(key) > 1 else -1 for key in keys], np.int64)
        return cls(separator, len(categories), tuple(paths), parents)

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

    def sums(self, probabilities: FloatArray, level: int) -> tuple[IntArray, FloatArray]:
        """The nodes at which ``level`` cuts the tree *(cut,)*, and the sums of their classes' probabilities *(rows, cut)*.

        ``probabilities`` have shape *(rows, classes)*. A category above that level is a node of the cut by itself.
        """
        nodes, place = np.unique(self.ancestors[: self.classes, level - 1], return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(len(nodes)))
        return nodes, np.add.reduceat(probabilities[:, order], starts, axis=1)
