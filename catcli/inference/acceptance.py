"""``--precision``: the confidence that holds it, as the adapter's own choosing rows have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from catcli.adapter.manifest import Threshold, VariantInfo
from catcli.errors import GateMissed, UsageError
from catcli.talk import Talk
from catcli.wording import format_confidence


def accepted_from(served: VariantInfo, precision: float, folder: Path, talk: Talk) -> float:
    """The threshold of the lowest precision on record that is no lower than ``precision``.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: none of those has a threshold.
    """
    enough = _no_lower(served.thresholds, precision, folder)
    for found in enough:
        if found.threshold is not None:
            if found.precision != precision:
                talk.say(f"--precision {precision:g}: the threshold for {found.precision:g} holds it")
            talk.say(f"rows are accepted from a confidence of {format_confidence(found.threshold)}")
            return found.threshold
    attainable = [found for found in served.thresholds if found.threshold is not None]
    instead = (
        f"--precision {attainable[-1].precision:g} is attainable, from a confidence of {format_confidence(attainable[-1].threshold or 0.0)}"
        if attainable
        else "no precision on record is attainable; --min-confidence sets a threshold that nothing vouches for"
    )
    why = enough[0].shortfall
    raise GateMissed(f"--precision {precision:g}: {folder} has no threshold that holds it ({why}); {instead}; nothing was written.")


def accepted_from_by_category(served: VariantInfo, precision: float, folder: Path, talk: Talk) -> Mapping[str, float]:
    """Thresholds of the categories that hold ``precision`` by themselves.

    Raises:
        UsageError: no precision on record is so high.
        GateMissed: no category holds it.
    """
    found = {}
    for category in served.category_thresholds:
        for threshold in _no_lower(category.thresholds, precision, folder):
            if threshold.threshold is not None:
                found[category.category] = threshold.threshold
                break
    if not found:
        tried = len(served.category_thresholds)
        raise GateMissed(
            f"--precision {precision:g} --by-category: no category of {folder} holds it by itself ({tried:,} have choosing rows enough to "
            "be tried); leave out --by-category, or fit with more labeled rows; nothing was written."
        )
    talk.say(f"{len(found):,} categories hold --precision {precision:g} by themselves; rows labeled with others are not accepted")
    return found


def _no_lower(thresholds: Sequence[Threshold], precision: float, folder: Path) -> list[Threshold]:
    enough = sorted((found for found in thresholds if found.precision >= precision), key=lambda found: found.precision)
    if not enough:
        have = ", ".join(f"{found.precision:g}" for found in thresholds)
        raise UsageError(f"--precision {precision:g}: {folder} was made with thresholds for {have}; choose one of these or a lower one.")
    return enough
