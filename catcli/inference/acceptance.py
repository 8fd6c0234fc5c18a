"""``--precision``: the confidence that holds it, as the labeled rows of the adapter's fit have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from catcli.adapter.manifest import Cascade, Manifest, Threshold, VariantInfo
from catcli.data.dataset.taxonomy import CategoryTree
from catcli.errors import GateMissed, UsageError
from catcli.evaluation.climb import BackOffRule, level_calibrations
from catcli.logs import LOGGER
from catcli.wording import format_confidence


def acceptance_threshold(info: VariantInfo | Cascade, precision: float, folder: Path) -> float:
    """The threshold of the lowest precision on record that is not lower than ``precision``.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: none of those has a threshold.
    """
    return _threshold(info.thresholds, precision, f"--precision {precision:g}", folder)


def back_off_rule(manifest: Manifest, info: VariantInfo | Cascade, precision: float, folder: Path) -> BackOffRule:
    """How rows get the deepest node of the categories' tree that holds the precision, as `acceptance_threshold` chooses it.

    Raises:
        UsageError: the categories are no paths, or no precision on record is so high.
        GateMissed: none of those has a threshold.
    """
    if manifest.separator is None or info.back_off is None:
        raise UsageError(
            f"--back-off: {folder} takes its categories as flat names, the first is {manifest.categories[0]!r}; leave it out, or fit again "
            "with categories that are paths (see fit --separator)."
        )
    tree = CategoryTree.of(manifest.categories, manifest.separator)
    levels = level_calibrations(tree, info.back_off)
    threshold = _threshold(info.back_off.thresholds, precision, f"--precision {precision:g} --back-off", folder)
    return BackOffRule(tree, levels, threshold, manifest.without_rows)


def _threshold(thresholds: Sequence[Threshold], precision: float, option: str, folder: Path) -> float:
    enough = _no_lower(thresholds, precision, folder)
    for threshold in enough:
        if threshold.threshold is not None:
            if threshold.precision != precision:
                LOGGER.info(f"--precision {precision:g}: the threshold for {threshold.precision:g} holds it")
            LOGGER.info(f"rows are accepted from a confidence of {format_confidence(threshold.threshold)}")
            return threshold.threshold
    attainable = [threshold for threshold in thresholds if threshold.threshold is not None]
    instead = (
        f"--precision {attainable[-1].precision:g} is attainable, from a confidence of {format_confidence(attainable[-1].threshold or 0.0)}"
        if attainable
        else "no precision on record is attainable; --min-confidence sets a threshold without a measured precision"
    )
    shortfall = enough[0].shortfall
    raise GateMissed(f"{option}: {folder} has no threshold that holds it ({shortfall}); {instead}; nothing was written.")


def acceptance_thresholds_by_category(info: VariantInfo | Cascade, precision: float, folder: Path) -> Mapping[str, float]:
    """Thresholds of the categories that hold ``precision`` by themselves.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: no category holds it.
    """
    cutoffs = {}
    for category in info.category_thresholds:
        for threshold in _no_lower(category.thresholds, precision, folder):
            if threshold.threshold is not None:
                cutoffs[category.category] = threshold.threshold
                break
    if not cutoffs:
        tried = len(info.category_thresholds)
        raise GateMissed(
            f"--precision {precision:g} --by-category: no category of {folder} holds it by itself ({tried:,} have enough rows "
            "to be tried); leave out --by-category, or fit with more labeled rows; nothing was written."
        )
    LOGGER.info(f"{len(cutoffs):,} categories hold --precision {precision:g} by themselves; rows labeled with others are not accepted")
    return cutoffs


def _no_lower(thresholds: Sequence[Threshold], precision: float, folder: Path) -> list[Threshold]:
    enough = sorted((threshold for threshold in thresholds if threshold.precision >= precision), key=lambda threshold: threshold.precision)
    if not enough:
        have = ", ".join(f"{threshold.precision:g}" for threshold in thresholds)
        raise UsageError(f"--precision {precision:g}: {folder} was made with thresholds for {have}; choose one of these or a lower one.")
    return enough
