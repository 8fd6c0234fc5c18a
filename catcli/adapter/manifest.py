"""The manifest of an adapter folder, ``adapter.json``, and what its values may be."""

from __future__ import annotations

import operator
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from catcli.config import MAX_LEVELS, Method
from catcli.wording import count_noun, per_cent

FORMAT = 8
READABLE_FORMATS = (2, 3, 4, 5, 6, 7, FORMAT)
"""Formats that are read: one of format 2 says no revision of its base, and has no weights beside its models; before 4 a base had all its
blocks; before 5 held-out rows were validation and test rows, never out-of-fold rows; before 6 all their logits were stored, and there were
no cascades; before 7 categories were flat names, whatever stood in them; before 8 all had rows, and none an identifier."""
MANIFEST = "adapter.json"

MAX_CATEGORIES, MAX_NAME_CHARACTERS = 1_000_000, 10_000
"""Categories of an adapter, and characters of a name."""

Variant = Literal["fp32", "int8", "fp16"]


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise ValueError(f"{name[:80]!r} is not a plain name: an adapter's files lie in its own folder")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]
"""A file of the folder itself: no path, no ``..``."""

ShortText = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
"""A number that cannot overflow float32 where it is multiplied by a logit; fitted ones are below a hundred."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class BaseInfo(_Section):
    """The base model: the name that gets it again, its public name, the SHA-256 of its weights, and the hub's commit.

    ``blocks`` are those of the published model that it keeps; empty for all.
    """

    name: ShortText
    hub: ShortText
    sha256: Hash
    revision: ShortText | None = None
    blocks: tuple[int, ...] = ()


class Threshold(_Section):
    """A precision, and the confidence threshold above which rows hold it."""

    precision: Share
    """The precision: the share of accepted rows whose label is right."""
    threshold: Share | None
    """The confidence from which rows are accepted; null where none could be shown to hold the precision."""
    accepted: Share | None
    """Share of the products that were tested that are accepted."""
    products: Count
    """Products of validation rows or out-of-fold rows, a row each, that were tested."""
    missing: Count | None
    """Where there is no threshold: at least how many more such products it takes to show one; null where more would not help."""
    best: Share | None
    """Where there is no threshold: the precision of the most confident rows that were tested; null where there were too few to test."""

    @property
    def shortfall(self) -> str:
        """Why there is no threshold, and what it takes to find one."""
        tested = (
            "too few rows to test" if self.best is None else f"the most confident rows that were tested are {per_cent(self.best)} right"
        )
        if self.missing is None:
            return f"{tested}; no number of products that are as often right would show it"
        return f"{tested}; label at least {count_noun(self.missing, 'more product')} to find this threshold"


class CategoryThresholds(_Section):
    """Thresholds for the rows that are labeled with one category."""

    category: ShortText
    """The category's name."""
    thresholds: tuple[Threshold, ...]
    """One for each precision."""


class CalibrationParameters(_Section):
    """What calibrates scores: they are divided by ``temperature``, and the log-odds of the best become ``slope`` x theirs + ``shift``."""

    temperature: Annotated[float, Field(ge=1e-9, le=1e9)]
    """What scores are divided by before their softmax."""
    slope: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """What the log-odds of the best category are multiplied by."""
    shift: Number = 0.0
    """What is added to them then."""


class LevelCalibration(_Section):
    """What calibrates the probabilities of a level's nodes, sums of their categories': their log-odds become ``slope`` x + ``shift``."""

    slope: Annotated[float, Field(gt=0, le=1e9)]
    shift: Number


class BackOff(_Section):
    """How rows get a node above the categories: the deepest whose confidence reaches the threshold.

    ``levels`` calibrate those of the levels from 1 on; each of ``thresholds`` holds its precision among all rows that get a node or a
    category so.
    """

    levels: Annotated[tuple[LevelCalibration, ...], Field(min_length=1, max_length=MAX_LEVELS)]
    thresholds: tuple[Threshold, ...]


class Cascade(_Section):
    """How rows are served of which the linear model decides some alone: those whose two best logits of it are ``margin`` apart or more.

    So at most the share ``max_change`` of rows gets another category than by both models. ``decided`` is the share of the products tested
    that it decides; ``confidence`` calibrates its logits for them, and the thresholds are for all rows, served so.
    """

    max_change: Annotated[float, Field(gt=0, lt=1)]
    margin: Annotated[float, Field(ge=0, le=1e9)]
    decided: Share
    confidence: CalibrationParameters
    thresholds: tuple[Threshold, ...] = ()
    category_thresholds: tuple[CategoryThresholds, ...] = ()
    back_off: Annotated[BackOff | None, Field(exclude_if=operator.not_)] = None


class VariantInfo(_Section):
    """One exported form of the model, what calibrates it, and the thresholds that its confidences have to pass.

    ``data`` names the files beside ``file`` that hold its weights, where those pass 2 GiB. Where the blend labels every row, ``thresholds``
    are for its confidences; ``cascades`` are the other ways to serve.
    """

    file: FileName
    confidence: CalibrationParameters
    data: tuple[FileName, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    category_thresholds: tuple[CategoryThresholds, ...] = ()
    back_off: Annotated[BackOff | None, Field(exclude_if=operator.not_)] = None
    cascades: Annotated[tuple[Cascade, ...], Field(exclude_if=operator.not_)] = ()  # a copy of an older adapter has its bytes

    def cascade(self, max_change: float) -> Cascade | None:
        """The cascade that changes the most rows, ``max_change`` of them at most; None where there is none."""
        allowed = [cascade for cascade in self.cascades if cascade.max_change <= max_change]
        return max(allowed, key=lambda cascade: cascade.max_change, default=None)


class BlendWeights(_Section):
    """What the logits of the two models are multiplied by before they are added, and what is added for each class besides."""

    lora: Number
    linear: Number
    offset: tuple[Number, ...] = ()


class ModelScales(_Section):
    """What each model's logits are multiplied by where it stands alone: the inverse of its temperature."""

    lora: Number
    linear: Number


class Manifest(_Section):
    """``adapter.json``: what came out of a fit.

    Class *i* is ``categories[i]``; with a ``separator`` these are paths of a tree. The last ``without_rows`` of them were known by name
    alone; ``category_ids`` are the identifiers that a taxonomy gives to them and to what stands above them. ``prices`` are the ``text``
    columns that are read as bands; ``files`` maps a file's name to its SHA-256.
    """

    format: int
    created: AwareDatetime
    base: BaseInfo
    method: Method
    label: ShortText
    text: Annotated[tuple[ShortText, ...], Field(min_length=1, max_length=1000)]
    prices: tuple[ShortText, ...] = ()
    group: ShortText | None
    categories: Annotated[tuple[ShortText, ...], Field(min_length=2, max_length=MAX_CATEGORIES)]
    separator: Annotated[ShortText | None, Field(exclude_if=operator.not_)] = None
    without_rows: Annotated[int, Field(ge=0, exclude_if=operator.not_)] = 0
    category_ids: Annotated[dict[ShortText, ShortText], Field(max_length=MAX_CATEGORIES, exclude_if=operator.not_)] = {}
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    pad_id: Annotated[int, Field(ge=0, lt=2**31)]
    blend: BlendWeights
    alone: ModelScales
    variants: dict[Variant, VariantInfo]
    files: dict[FileName, Hash]
    versions: dict[ShortText, ShortText]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("a category stands in it twice")
        if self.without_rows > len(self.categories) - 2:
            raise ValueError("fewer than two categories with rows")
        if len(self.blend.offset) not in (0, len(self.categories)):
            raise ValueError(f"the blend has {len(self.blend.offset)} offsets for {len(self.categories)} categories")
        if not set(self.prices) <= set(self.text):
            raise ValueError("prices that are no text column")
        cascades = [cascade for info in self.variants.values() for cascade in info.cascades]
        served_ways: list[VariantInfo | Cascade] = [*self.variants.values(), *cascades]
        by_category = [single for way in served_ways for single in way.category_thresholds]
        if not {single.category for single in by_category} <= set(self.categories):
            raise ValueError("thresholds of a category that it does not have")
        if self.separator is None and any(way.back_off is not None for way in served_ways):
            raise ValueError("a back-off without a separator")
        if self.separator is not None and not self.separator.strip():
            raise ValueError("a blank separator")
        served = {name for info in self.variants.values() for name in (info.file, *info.data)}
        if self.files and ("fp32" not in self.variants or not served <= set(self.files)):  # a draft has no hashes yet
            raise ValueError("a model that serves is not among its files")
        return self
