"""``--precision``: the confidence that holds it, as the adapter's validation rows have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from catcli.adapter.manifest import Threshold, VariantInfo
from catcli.errors import GateMissed, UsageError
from catcli.logs import LOGGER
from catcli.wording import format_confidence


def acceptance_threshold(info: VariantInfo, precision: float, folder: Path) -> float:
    """The threshold of the lowest precision on record that is no lower than ``precision``.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: none of those has a threshold.
    """
    enough = _no_lower(info.thresholds, precision, folder)
    for found in enough:
        if found.threshold is not None:
            if found.precision != precision:
                LOGGER.info(f"--precision {precision:g}: the threshold for {found.precision:g} holds it")
            LOGGER.info(f"rows are accepted from a confidence of {format_confidence(found.threshold)}")
            return found.threshold
    attainable = [found for found in info.thresholds if found.threshold is not None]
    instead = (
        f"--precision {attainable[-1].precision:g} is attainable, from a confidence of {format_confidence(attainable[-1].threshold or 0.0)}"
        if attainable
        else "no precision on record is attainable; --min-confidence sets a threshold without a measured precision"
    )
    why = enough[0].shortfall
    raise GateMissed(f"--precision {precision:g}: {folder} has no threshold that holds it ({why}); {instead}; nothing was written.")


def acceptance_thresholds_by_category(info: VariantInfo, precision: float, folder: Path) -> Mapping[str, float]:
    """Thresholds of the categories that hold ``precision`` by themselves.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: no category holds it.
    """
    found = {}
    for category in info.category_thresholds:
        for threshold in _no_lower(category.thresholds, precision, folder):
            if threshold.threshold is not None:
                found[category.category] = threshold.threshold
                break
    if not found:
        tried = len(info.category_thresholds)
        raise GateMissed(
            f"--precision {precision:g} --by-category: no category of {folder} holds it by itself ({tried:,} have enough validation "
            f"rows to "
            "be tried); leave out --by-category, or fit with more labeled rows; nothing was written."
        )
    LOGGER.info(f"{len(found):,} categories hold --precision {precision:g} by themselves; rows labeled with others are not accepted")
    return found


def _no_lower(thresholds: Sequence[Threshold], precision: float, folder: Path) -> list[Threshold]:
    enough = sorted((found for found in thresholds if found.precision >= precision), key=lambda found: found.precision)
    if not enough:
        have = ", ".join(f"{found.precision:g}" for found in thresholds)
        raise UsageError(f"--precision {precision:g}: {folder} was made with thresholds for {have}; choose one of these or a lower one.")
    return enough
