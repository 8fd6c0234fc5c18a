"""``--require macro_f1=0.9``: scores that are required."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catcli.errors import GateMissed, UsageError, did_you_mean, name_list
from catcli.evaluation.metrics import TITLES, TREE_TITLES, Estimate, Evaluation

LOWER_IS_BETTER = ("log_loss", "calibration_error")

UNBOUNDED_METRICS = ("log_loss",)
"""Metrics that are no shares."""


@dataclass(frozen=True)
class Requirement:
    """A required score: at least, or for `LOWER_IS_BETTER` at most. ``metric`` is one of `TITLES`, or ``calibration_error``."""

    metric: str
    value: float

    @classmethod
    def of(cls, text: str) -> Requirement:
        """Parse ``macro_f1=0.9``."""
        name, equals, value = text.partition("=")
        name, known = name.strip().lower().replace("-", "_").replace(" ", "_"), [*TITLES, *TREE_TITLES, "calibration_error"]
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or number != number:  # noqa: PLR0124  (only NaN differs from itself)
            raise UsageError(f"--require {text}: write METRIC=VALUE, such as macro_f1=0.9.")
        if name not in known:
            raise UsageError(f"--require {text}: {name!r} is not a metric{did_you_mean(name, known)}; there are {name_list(known)}.")
        if name not in UNBOUNDED_METRICS and not 0 <= number <= 1:
            hint = f", such as {name}={number / 100:g}" if 1 < number <= 100 else ""
            raise UsageError(f"--require {text}: {name} is a share from 0 to 1{hint}.")
        if number < 0:
            raise UsageError(f"--require {text}: {name} is never below 0.")
        return cls(metric=name, value=number)


def check_tree_requirements(requirements: Sequence[Requirement], *, has_tree: bool) -> None:
    """Refuse scores on the tree where the categories are taken as flat names.

    Raises:
        UsageError: one is required.
    """
    metric = next((requirement.metric for requirement in requirements if requirement.metric in TREE_TITLES), None)
    if metric is not None and not has_tree:
        raise UsageError(
            f"--require {metric}: the categories are taken as flat names, not as paths; require another metric, or see --separator."
        )


def check_requirements(evaluation: Evaluation, requirements: tuple[Requirement, ...], end: str) -> None:
    """Stop where a requirement is not met; ``end`` is the end of the sentence.

    Raises:
        UsageError: a score on the tree is required of categories that are none.
        GateMissed: a score is not reached.
    """
    missed = []
    check_tree_requirements(requirements, has_tree=evaluation.tree is not None)
    for requirement in requirements:
        reached, shown = _reached(evaluation, requirement.metric)
        low = requirement.metric in LOWER_IS_BETTER
        if reached > requirement.value if low else reached < requirement.value:
            missed.append(
                f"{requirement.metric} is {shown}, {'above' if low else 'below'} the {requirement.value:g} that --require asks for"
            )
    if missed:
        raise GateMissed(f"{'; '.join(missed)}; {end}")


def _reached(evaluation: Evaluation, metric: str) -> tuple[float, str]:
    if metric == "calibration_error":
        error = evaluation.calibration[evaluation.variant].error_after
        return error, f"{error:.3f}"
    estimate: Estimate = getattr(evaluation.tree if metric in TREE_TITLES else evaluation.blend, metric)
    return estimate.value, f"{estimate.value:.3f} (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"
