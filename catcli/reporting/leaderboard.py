"""The adapters of one split → the leaderboard of ``catcli compare``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from catcli.adapter.folder import Adapter
from catcli.arrays import FloatArray
from catcli.errors import AdapterError
from catcli.evaluation.bootstrap import Outcomes, estimate_interval
from catcli.evaluation.calibration import BlendCalibration, log_losses
from catcli.evaluation.fit_metrics import FitMetrics
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.heldout import HeldOutRows
from catcli.evaluation.metrics import CategoryScores, Estimate
from catcli.evaluation.scores import compare_runs, holm_corrected, mean_bootstrap, mean_metric
from catcli.evaluation.studies import GridResult, ModelResult
from catcli.inference.ngrams import LinearModel
from catcli.reporting.grid_page import GridPageModel
from catcli.reporting.scoring import scored_rows
from catcli.training.grid import GridRun


@dataclass(frozen=True)
class RunProbabilities:
    """One model's probabilities *(rows, classes)* for the test rows, and their outcomes."""

    probabilities: FloatArray
    outcomes: Outcomes


@dataclass(frozen=True)
class ScoredRun:
    """One fit: its adapter, and its test rows by the model that learned, by the linear model, and by their blend."""

    adapter: Adapter
    metrics: FitMetrics
    lora: RunProbabilities
    linear: RunProbabilities
    blend: RunProbabilities
    validation: Mapping[str, float]

    @classmethod
    def of(cls, adapter: Adapter) -> ScoredRun:
        """Read it from its folder."""
        manifest, metrics = adapter.manifest, FitMetrics.of(adapter)
        test, by_model = scored_rows(adapter, metrics.variant)
        models = {
            name: RunProbabilities(probabilities, Outcomes.of(probabilities, test.classes, test.products))
            for name, probabilities in by_model.items()
        }
        validation = HeldOutRows.load(adapter.file("heldout.parquet"), manifest.categories).part("validation")
        halves = FoldRoles.of(np.unique(validation.products, return_inverse=True)[1] % 2)
        unseen = BlendCalibration.of(manifest).cross_fitted(validation.lora, validation.linear, validation.classes, halves)
        losses = {name: float(log_losses(unseen[name], validation.classes).mean()) for name in ("blend", "linear")}
        return cls(adapter, metrics, **models, validation=losses)


@dataclass(frozen=True)
class Leaderboard:
    """Models by their names, with the probabilities that each of their seeds gives the test rows, which are the same for all."""

    names: Sequence[str]
    models: Mapping[str, ModelResult]
    runs: Mapping[str, Sequence[RunProbabilities]]
    areas: Mapping[str, Mapping[str, float | None]]

    @property
    def rows(self) -> Outcomes:
        """The test rows, as the first model has them."""
        return next(iter(self.runs.values()))[0].outcomes

    def page_models(self) -> list[GridPageModel]:
        """What the page draws; of several seeds the first."""
        return [
            GridPageModel(model, self.areas[name], self.runs[name][0].probabilities, self.runs[name][0].outcomes)
            for name, model in self.models.items()
        ]

    @property
    def best(self) -> ModelResult:
        """The one to take, by the validation rows."""
        return min(self.models.values(), key=lambda model: model.validation_log_loss)

    def result(self, failed: Mapping[str, str], page: str, recipe: str | None) -> GridResult:
        """Everything, with every pair compared."""
        outcomes = {name: [run.outcomes for run in runs] for name, runs in self.runs.items()}
        pairs = list(combinations(outcomes, 2))
        comparisons = [compare_runs(outcomes[first], outcomes[second], first, second, len(pairs)) for first, second in pairs]
        return GridResult(
            test_rows=len(self.rows.truth),
            test_products=self.rows.products,
            models=tuple(self.models.values()),
            best=self.best.name,
            recipe=recipe,
            comparisons=tuple(holm_corrected(comparisons)),
            failed=dict(failed),
            page=page,
        )


def build_leaderboard(adapters: Mapping[GridRun, Adapter], with_linear: bool) -> Leaderboard:
    """Score the adapters of some runs. The linear model is the one beside the first method of each balance.

    Raises:
        AdapterError: they do not hold out the same rows.
    """
    groups: defaultdict[str, list[ScoredRun]] = defaultdict(list)
    grid_runs: dict[str, GridRun] = {}
    for grid_run, adapter in adapters.items():
        groups[grid_run.model].append(ScoredRun.of(adapter))
        grid_runs.setdefault(grid_run.model, grid_run)
    runs = [run for group in groups.values() for run in group]
    first = runs[0].lora.outcomes
    for run in runs[1:]:
        lora_outcomes = run.lora.outcomes
        if not (np.array_equal(first.truth, lora_outcomes.truth) and np.array_equal(first.product, lora_outcomes.product)):
            raise AdapterError(f"{run.adapter.folder} holds out other rows than {runs[0].adapter.folder}; pass --force to fit both again.")
    models, probabilities, areas = {}, {}, {}
    by_balance: dict[str, list[ScoredRun]] = {}  # the fits whose linear model is shown
    for name, group in groups.items():
        probabilities[name] = [run.lora for run in group]
        models[name] = _model(grid_runs[name], group)
        areas[name] = {category.category: category.roc_auc for category in group[0].metrics.lora.categories}
        by_balance.setdefault(grid_runs[name].recipe.balance, group)
    for balance, group in by_balance.items() if with_linear else ():
        name = " ".join(["linear", *([balance] if balance != "none" else [])])
        probabilities[name] = [run.linear for run in group]
        models[name] = _linear(name, balance, group)
        areas[name] = {category.category: category.roc_auc for category in group[0].metrics.linear.categories}
    return Leaderboard(runs[0].adapter.manifest.categories, models, probabilities, areas)


def _model(grid_run: GridRun, runs: Sequence[ScoredRun]) -> ModelResult:
    trainings = [run.metrics.training for run in runs]
    on_device = [training.device_memory for training in trainings if training.device_memory is not None]
    return ModelResult(
        name=grid_run.model,
        base=grid_run.recipe.base,
        method=grid_run.recipe.method,
        balance=grid_run.recipe.balance,
        adapters=tuple(str(run.adapter.folder) for run in runs),
        **_scores([run.lora.outcomes for run in runs]),
        roc_auc=_mean_area([run.metrics.lora.categories for run in runs]),
        blend_accuracy=_mean([run.blend.outcomes for run in runs], "accuracy"),
        blend_macro_f1=_mean([run.blend.outcomes for run in runs], "macro_f1"),
        validation_log_loss=float(np.mean([run.validation["blend"] for run in runs])),
        # Of a fit that was killed and went on, the first part is in its passes alone.
        seconds=float(np.mean([max(training.lora_seconds, sum(epoch.seconds for epoch in training.epochs)) for training in trainings])),
        peak_memory=max(training.peak_memory for training in trainings),
        device_memory=max(on_device, default=None),
        trained=trainings[0].trained,
        learned_bytes=trainings[0].learned_bytes,
    )


def _linear(name: str, balance: str, runs: Sequence[ScoredRun]) -> ModelResult:
    file = runs[0].adapter.file("linear.safetensors")
    return ModelResult(
        name=name,
        base=None,
        method="linear",
        balance=balance,
        adapters=tuple(str(run.adapter.folder) for run in runs),
        **_scores([run.linear.outcomes for run in runs]),
        roc_auc=_mean_area([run.metrics.linear.categories for run in runs]),
        blend_accuracy=None,
        blend_macro_f1=None,
        validation_log_loss=float(np.mean([run.validation["linear"] for run in runs])),
        seconds=float(np.mean([run.metrics.training.linear_seconds for run in runs])),
        peak_memory=None,
        device_memory=None,
        trained=LinearModel.load(file).parameters,
        learned_bytes=file.stat().st_size,
    )


def _scores(runs: Sequence[Outcomes]) -> dict[str, Estimate]:
    return {metric: _mean(runs, metric) for metric in ("accuracy", "macro_precision", "macro_recall", "macro_f1")}


def _mean(runs: Sequence[Outcomes], metric: str) -> Estimate:
    return estimate_interval(mean_metric(runs, metric), mean_bootstrap(runs, metric), runs[0].products)


def _mean_area(runs: Sequence[Sequence[CategoryScores]]) -> float | None:
    areas = [category.roc_auc for categories in runs for category in categories if category.roc_auc is not None]
    return float(np.mean(areas)) if areas else None
