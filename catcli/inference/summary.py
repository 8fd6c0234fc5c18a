"""The counts of a ``catcli predict`` run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MILLION = 1_000_000
"""Parts that a confidence is counted in."""


@dataclass
class PredictSummary:
    """The counts of some labeled rows: of a shard, or of a run.

    ``below`` counts rows whose confidence was below the threshold, ``blank`` those without any text, ``short`` those of CSV with fewer
    cells than the header, ``bad`` those that could not be read. ``labeled`` counts texts that a model looked at, ``cut`` those of them with
    more tokens than it reads, and ``taken_over`` rows that an earlier output had; ``halved`` counts batches that memory was too short for.
    ``decided``, ``checked`` and ``changed`` are those of `catcli.inference.labeler.Labels`. ``resumed`` are rows that a run before had
    done; ``seconds`` are this run's. ``categories`` counts accepted rows: by the category's number, and by its name, the most frequent
    first, once `name_categories` was called. ``confidence`` is the sum of the confidences of ``guessed`` rows in millionths, those whose
    most probable category a model or an earlier output gave, and ``guesses`` counts these categories as ``categories`` does.
    """

    rows: int = 0
    below: int = 0
    blank: int = 0
    short: int = 0
    labeled: int = 0
    cut: int = 0
    taken_over: int = 0
    applied: int = 0
    guessed: int = 0
    confidence: int = 0
    bad: int = 0
    halved: int = 0
    decided: int = 0
    checked: int = 0
    changed: int = 0
    resumed: int = 0
    seconds: float = 0.0
    categories: dict[str, int] = field(default_factory=dict)
    guesses: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add the counts of a shard, as `counts` gave them."""
        for name, value in counts.items():
            if name in ("categories", "guesses"):
                setattr(self, name, dict(Counter(getattr(self, name)) + Counter(value)))
            else:
                setattr(self, name, getattr(self, name) + value)

    def name_categories(self, names: Sequence[str]) -> None:
        """Put the ``names`` in the place of the categories' numbers, the most frequent first."""
        for field_name in ("categories", "guesses"):
            named = ((names[int(number)], count) for number, count in getattr(self, field_name).items())
            setattr(self, field_name, dict(sorted(named, key=lambda item: (-item[1], item[0]))))

    def counts(self) -> dict[str, Any]:
        """The counts that are not zero, by name, for a journal."""
        return {name: value for name, value in vars(self).items() if value}

    @property
    def mean_confidence(self) -> float | None:
        """The mean confidence of the rows whose category a model gave; None where there are none."""
        return self.confidence / MILLION / self.guessed if self.guessed else None

    def changed_share(self) -> tuple[float, float, float]:
        """The share of texts that got another category than by both models: an estimate from the checked ones, and its 95 % interval.

        The interval is Clopper and Pearson's. Texts that both models labeled did not change.
        """
        from catcli.evaluation.bootstrap import lower_bound  # imports scipy

        share, unchanged = self.decided / max(self.labeled, 1), self.checked - self.changed
        low, high = lower_bound(self.changed, self.checked, 0.025), 1 - lower_bound(unchanged, self.checked, 0.025)
        return self.changed / max(self.checked, 1) * share, low * share, high * share
