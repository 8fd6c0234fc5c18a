"""A published taxonomy, a file of category paths with their identifiers where it has some ↔ `Taxonomy`.

Read as published: text of a path a line, alone or behind an identifier (Google's ``3237 - Animals > Live Animals``, Shopify's ``gid://… :
Animals``), Shopify's ``taxonomy.json``, GS1's Global Product Classification as JSON (segments, families, classes and bricks), and tables
with a column of paths or with one for each level (GS1's ``SegmentTitle`` to ``BrickTitle``).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import polars as pl

from catcli.adapter.manifest import MAX_NAME_CHARACTERS
from catcli.atomic import read_small_file
from catcli.data.dataset.categories import normalized_name
from catcli.data.dataset.taxonomy import MAX_NODES, CategoryTree, chosen_separator, split_path
from catcli.data.dataset.text import column_cells, is_scalar
from catcli.data.io.formats import COMPRESSIONS, EXTENSIONS, extension_of
from catcli.data.io.source import open_source
from catcli.errors import ProductsError, name_list
from catcli.paths import is_bucket
from catcli.wording import count_noun

MAX_FILE_BYTES = 2**28
"""Bytes of a taxonomy: Shopify's JSON with all attributes is 80 MB."""

MAX_NAMES = 3
"""Labels outside the taxonomy that are named, and names near to each that are suggested."""

GPC_LEVELS = 4
"""Levels of GS1's classification that are categories, from segments to bricks; below are attributes."""

SEPARATOR = " > "
"""What joins the names of levels that a file keeps apart."""

_LINE = re.compile(r"(?:(?P<number>\d+)\s+-\s+|(?P<gid>gid://\S+)\s*:\s+)?(?P<path>\S.*)")

NUMBERED_SHARE = 0.9
"""Share of a text's lines that begin with a number and a dash where these are identifiers."""

PATH_COLUMNS, ID_COLUMNS = ("full_name", "path", "category_path", "category", "name"), ("id", "category_id", "code", "gid")
"""Names of columns of a table, by which it is read; case does not matter."""

GPC_COLUMNS = ("Segment", "Family", "Class", "Brick")
"""The levels of GS1's table: each has a column ``…Title`` and one ``…Code``."""


@dataclass(frozen=True)
class Taxonomy:
    """All categories there can be: ``paths``, and ``ids``, the identifiers of those that have one.

    ``separator`` parts the paths; None where they are flat names. ``source`` is the file.
    """

    source: str
    paths: tuple[str, ...]
    separator: str | None
    ids: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: str, separator: str | None = None) -> Self:
        """The taxonomy in ``file``; ``separator`` is the user's, '' for flat names, and None to find it.

        Raises:
            ProductsError: it cannot be read as one.
        """
        nodes: dict[str, str | None] = {}
        paths_by_id: dict[str, str] = {}
        for identifier, path in _nodes(file):
            _check_name(path, file)
            nodes[path] = nodes.get(path) or identifier
            if identifier:
                _check_name(identifier, file)
                if paths_by_id.setdefault(identifier, path) != path:
                    both = name_list((paths_by_id[identifier], path))
                    raise ProductsError(f"--taxonomy {file}: {identifier!r} is the identifier of {both}; give each its own.")
            if len(nodes) > MAX_NODES:
                raise ProductsError(f"--taxonomy {file}: it has more than the {MAX_NODES:,} categories that are read.")
        if len(nodes) < 2:
            raise ProductsError(f"--taxonomy {file}: it has {count_noun(len(nodes), 'path')}; give one path a line.")
        paths = tuple(nodes)
        ids = {path: identifier for path, identifier in nodes.items() if identifier}
        return cls(file, paths, chosen_separator(paths, separator), ids)

    @cached_property
    def _by_id(self) -> dict[str, str]:
        return {identifier: path for path, identifier in self.ids.items()}

    def path_of(self, label: str) -> str | None:
        """The path that a label is, or is the identifier of; None where it is neither."""
        return label if label in self._known else self._by_id.get(label)

    def respelled(self, label: str) -> str:
        """The path that differs from a label only by case or blanks, else the label."""
        return label if self.path_of(label) else self._normalized.get(normalized_name(label), label)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.paths)

    def ids_of(self, categories: Sequence[str]) -> dict[str, str]:
        """The identifiers of categories, and of what stands above them, by their paths; of those that have one."""
        paths = categories if self.separator is None else CategoryTree.of(categories, self.separator).paths
        return {path: self.ids[path] for path in paths if path in self.ids}

    def without_rows(self, labels: Sequence[str]) -> list[str]:
        """The categories that are none of ``labels``, paths all, and may be one of a row; those nearest to ``labels`` in the tree first.

        Of a file that also lists whatever stands above its paths, as published taxonomies do, those that have none below them, and not what
        is below a label, where labels are no deeper. Of another, which lists the categories in use, all.
        """
        if self.separator is None:
            named = set(labels)
            return [path for path in self.paths if path not in named]
        parts = {path: split_path(path, self.separator) for path in self.paths}
        keys = set(parts.values())
        above = {key[:-1] for key in keys}
        is_whole = all(key[:end] in keys for key in keys for end in range(1, len(key)))
        used = {split_path(label, self.separator) for label in labels}
        with_rows = {key[:end] for key in used for end in range(len(key) + 1)}

        def depth_in_common(key: tuple[str, ...]) -> int:
            return next(end for end in range(len(key) - 1, -1, -1) if key[:end] in with_rows)

        found = [
            path
            for path, key in parts.items()
            if key not in used and not (is_whole and (key in above or any(key[:end] in used for end in range(1, len(key)))))
        ]
        return sorted(found, key=lambda path: -depth_in_common(parts[path]))

    def check(self, labels: Mapping[str, int], source_name: str) -> None:
        """Whether all ``labels``, each with its number of rows, are in the taxonomy.

        Raises:
            ProductsError: some are not; the nearest names are suggested.
        """
        outside = sorted((label for label in labels if self.path_of(label) is None), key=lambda label: (-labels[label], label))
        if not outside:
            return
        named = "; ".join(f"{label!r} ({count_noun(labels[label], 'row')}){self._suggest(label)}" for label in outside[:MAX_NAMES])
        more = f"; and {len(outside) - MAX_NAMES:,} more" if len(outside) > MAX_NAMES else ""
        raise ProductsError(
            f"{source_name} has {count_noun(len(outside), 'label')} that --taxonomy {self.source} has not: {named}{more}. Correct "
            "these labels, or add the categories to the taxonomy."
        )

    def _suggest(self, label: str) -> str:
        names = self.nearest(label)
        return f", near to {name_list(names)}" if names else ""

    def nearest(self, label: str) -> list[str]:
        """Up to `MAX_NAMES` paths that are spelled most like ``label``, by the whole path or by its last part."""
        whole = difflib.get_close_matches(normalized_name(label), list(self._normalized), MAX_NAMES, 0.7)
        last = normalized_name(split_path(label, self.separator)[-1])
        found = [self._normalized[name] for name in whole]
        found += [path for path in self._by_last.get(last, ()) if path not in found]
        return found[:MAX_NAMES]

    @cached_property
    def _normalized(self) -> dict[str, str]:
        return {normalized_name(path): path for path in self.paths}

    @cached_property
    def _by_last(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.paths:
            found.setdefault(normalized_name(split_path(path, self.separator)[-1]), []).append(path)
        return found


Nodes = Iterator[tuple[str | None, str]]
"""Identifiers, None where there is none, and paths."""


def _check_name(name: str, file: str) -> None:
    """A path or an identifier is what an adapter can hold.

    Raises:
        ProductsError: it is not.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise ProductsError(
            f"--taxonomy {file}: it has a path or identifier of {len(name):,} characters ({name[:40]!r}…); categories have at most "
            f"{MAX_NAME_CHARACTERS:,}."
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ProductsError(f"--taxonomy {file}: {name[:40]!a} holds half a character (a lone surrogate); correct it.") from error


def _nodes(name: str) -> Nodes:
    file = Path(name)
    if is_bucket(name):
        raise ProductsError(f"--taxonomy {name}: a taxonomy is read from this machine's disk; copy it and name the copy.")
    if extension_of(file) in EXTENSIONS:
        return _of_table(file)
    try:
        text = read_small_file(file, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        packed = file.suffix.lower() in COMPRESSIONS
        advice = "decompress it" if packed else f"it is not UTF-8 at byte {error.start:,}; convert it, for example with iconv"
        raise ProductsError(f"--taxonomy {file}: {advice}.") from error
    except OSError as error:
        raise ProductsError(f"--taxonomy {file} cannot be read: {error.strerror or error}.") from error
    begins = text.lstrip()[:1]
    if begins in ("{", "["):
        try:
            return _of_json(json.loads(text), file)
        except (ValueError, RecursionError) as error:
            if begins == "{" or file.suffix.lower() == ".json":
                raise ProductsError(f"--taxonomy {file}: it begins like JSON and is none ({error}).") from error
    return _of_lines(text)


def _of_lines(text: str) -> Nodes:
    lines = [line.strip() for line in text.splitlines()]
    matches = [match for line in lines if line and not line.startswith("#") and (match := _LINE.fullmatch(line))]
    # "100 - Piece Puzzles" is a name where other lines have no number before theirs.
    numbered = sum(match["number"] is not None for match in matches) >= NUMBERED_SHARE * len(matches)
    for match in matches:
        if match["number"] and not numbered:
            yield None, match.string
        else:
            yield match["number"] or match["gid"], match["path"]


def _of_json(content: Any, file: Path) -> Nodes:  # noqa: ANN401  # whatever JSON holds
    """The nodes of Shopify's JSON, whose categories are lists of full names, or of GS1's, whose nodes hold each other."""
    if isinstance(content, dict) and isinstance(content.get("Schema"), list):
        return _of_gpc(content["Schema"], ())
    verticals = content.get("verticals") if isinstance(content, dict) else content
    categories = [entry for group in _dicts(verticals) for entry in (_dicts(group["categories"]) if "categories" in group else [group])]
    named = [entry for entry in categories if isinstance(entry.get("full_name"), str) and entry["full_name"].strip()]
    if not named:
        raise ProductsError(
            f"--taxonomy {file}: it is JSON with neither Shopify's 'full_name' nor GS1's 'Schema'; give a text of one path a line."
        )
    return ((str(entry["id"]) if entry.get("id") else None, entry["full_name"].strip()) for entry in named)


def _dicts(content: Any) -> list[dict[str, Any]]:  # noqa: ANN401  # whatever JSON holds
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _of_gpc(nodes: Sequence[Any], above: tuple[str, ...]) -> Nodes:
    for node in _dicts(nodes):
        title, level = node.get("Title"), node.get("Level")
        if isinstance(title, str) and title.strip() and level == len(above) + 1 <= GPC_LEVELS:
            path = (*above, _escaped(title))
            yield (str(node["Code"]) if node.get("Code") else None, SEPARATOR.join(path))
            yield from _of_gpc(node.get("Childs") or [], path)


def _escaped(name: str) -> str:
    """A level's name as a part of a path."""
    return " ".join(name.split()).replace(SEPARATOR, f" \\{SEPARATOR.strip()} ")


def _of_table(file: Path) -> Nodes:
    frame = open_source([str(file)]).read().frame
    columns = {name.casefold(): name for name in frame.columns}
    titles = [columns.get(f"{level}Title".casefold()) for level in GPC_COLUMNS]
    if titles[0] is not None:
        return _of_levels(frame, [title for title in titles if title is not None], columns)
    path = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
    if path is None:
        raise ProductsError(
            f"--taxonomy {file} has columns {name_list(frame.columns)}; name the one with the paths {PATH_COLUMNS[1]!r}, and one with "
            f"identifiers {ID_COLUMNS[0]!r}."
        )
    identifier = next((columns[name] for name in ID_COLUMNS if name in columns), None)
    return _of_columns(frame, path, identifier)


def _of_columns(frame: pl.DataFrame, path: str, identifier: str | None) -> Nodes:
    ids = _cells(frame, identifier) if identifier else [None] * len(frame)
    for number, name in zip(ids, _cells(frame, path), strict=True):
        if name and name.strip():
            yield (number or "").strip() or None, name.strip()


def _of_levels(frame: pl.DataFrame, titles: Sequence[str], columns: Mapping[str, str]) -> Nodes:
    names = [[_escaped(name or "") for name in _cells(frame, title)] for title in titles]
    code_columns = [columns.get(title.casefold().removesuffix("title") + "code") for title in titles]
    codes = [_cells(frame, column) if column else [None] * len(frame) for column in code_columns]
    for row_names, row_codes in zip(zip(*names, strict=True), zip(*codes, strict=True), strict=True):
        deepest = next((level for level, name in enumerate(row_names) if not name), len(titles))
        for level in range(deepest):
            yield row_codes[level], SEPARATOR.join(row_names[: level + 1])


def _cells(frame: pl.DataFrame, column: str) -> list[str | None]:
    """A column's cells as text; whole numbers without a fraction, as which a column of numbers with a gap is often stored.

    Raises:
        ProductsError: they are lists or the like.
    """
    cells = column_cells(frame, column)
    if not is_scalar(cells.dtype):
        raise ProductsError(f"--taxonomy: the cells of {column!r} are {cells.dtype}, not names; write one path a row.")
    if cells.dtype.is_float() and bool(((cells == cells.round()) | cells.is_null()).all()):
        cells = cells.cast(pl.Int64, strict=False)
    return cells.cast(pl.String).to_list()
