"""The search of ``catcli tune``: Optuna proposes recipes, cross-validation scores them, a study on disk remembers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import URL
from sqlalchemy.exc import DatabaseError

from catcli import private_folder
from catcli.config import LORA_METHODS, Recipe
from catcli.data.dataset.prepare import TrainingData
from catcli.data.io.output import write_errors
from catcli.errors import CatcliError, OutputError, TrainingError, UsageError, reason
from catcli.evaluation.metrics import TITLES, Numbers
from catcli.evaluation.requirements import LOWER_IS_BETTER
from catcli.evaluation.scores import compare_models
from catcli.evaluation.studies import TrialResult, TuneResult
from catcli.logs import LOGGER, Advance, no_progress
from catcli.training.cross_validation import CrossValidation, score_on_test_rows
from catcli.training.search_options import SearchOptions
from catcli.training.setup import Setup

STARTUP_TRIALS = 4
"""Trials that are sampled at random and never pruned, before the sampler and the pruner have something to go by."""

LR_FACTOR = 10.0
"""The learning rate is looked for from so much below to so much above the one that suits the base."""

CHOICES: Mapping[str, tuple[float, ...]] = {
    "batch_size": (8, 16, 32, 64),
    "weight_decay": (0.0, 0.001, 0.01, 0.1),
    "rank": (2, 4, 8, 16, 32),
    "alpha": (4, 8, 16, 32, 64),
    "dropout": (0.0, 0.05, 0.1, 0.2, 0.3),
}
"""What else is looked for among these and what the recipe says; rank, alpha and dropout where the method has adapters."""

MAX_KILLED = 3
"""Times in a row that a trial's process may be killed before the trial is pruned: it would be proposed, and killed, for ever."""

ENDED_STATES = (TrialState.COMPLETE, TrialState.PRUNED)


@contextmanager
def translate_study_errors(file: Path) -> Iterator[None]:
    """Turn what keeps a study in ``file`` from growing into a sentence.

    Raises:
        OutputError: the disk is full, or the file is in use.
    """
    try:
        yield
    except (StorageInternalError, DatabaseError) as error:
        raise OutputError(f"{file} cannot be written ({reason(error)}); fix that and run the same command with --resume.") from error


def open_study(file: Path, data: TrainingData, search: SearchOptions, fit_inputs: Mapping[str, str]) -> optuna.Study:
    """The study in ``file``, made where there is none; ``fit_inputs`` is what beside rows and recipe decides a fit.

    Raises:
        OutputError: the file is something else.
        UsageError: it is of other rows or settings.
    """
    try:
        with write_errors(str(file), "-o"):
            study = optuna.create_study(
                study_name="catcli tune",
                storage=optuna.storages.RDBStorage(URL.create("sqlite", database=str(file)).render_as_string()),
                direction="minimize" if search.metric in LOWER_IS_BETTER else "maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
                load_if_exists=True,
            )
    except (DatabaseError, RuntimeError, AssertionError) as error:
        raise OutputError(f"{file} is not a study of catcli tune: {reason(error)}; choose another file with -o.") from error
    _check_fingerprint(study, data, search, file, fit_inputs)
    return study


def _check_fingerprint(study: optuna.Study, data: TrainingData, search: SearchOptions, file: Path, fit_inputs: Mapping[str, str]) -> None:
    """A study goes on with the rows, the recipe and the folds that it began with, or not at all.

    Raises:
        UsageError: something of these is another.
    """
    rows = hashlib.sha256()
    for text, number, key in zip(data.labeled.texts, data.labeled.classes.tolist(), data.labeled.keys, strict=True):
        rows.update(f"{number} {key} {text}\n".encode("utf-8", "surrogatepass"))
    for text in data.unlabeled.texts if data.unlabeled else ():
        rows.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    fingerprint = {
        "the rows": rows.hexdigest(),
        "the recipe": data.recipe.model_dump_json(),
        "--folds": str(search.folds),
        "--metric": search.metric,
        **fit_inputs,
    }
    stored = study.user_attrs.get("made from")
    if stored is None:
        study.set_user_attr("made from", fingerprint)
        return
    if not isinstance(stored, dict) or not isinstance(study.user_attrs.get("tested", {}), dict):
        raise OutputError(f"{file} is not a study of catcli tune: its notes are of another kind; choose another file with -o.")
    changed = [name for name, value in fingerprint.items() if stored.get(name) != value]
    if changed:
        raise UsageError(
            f"--resume: since {file} was begun, {', '.join(changed)} changed; take back the change, pass --force to start again, or -o for "
            "another file."
        )


class Search:
    """One run of a search. What it knows of earlier trials stands in the study, so it does not matter which run made them."""

    def __init__(
        self, study: optuna.Study, data: TrainingData, options: SearchOptions, checkpoints: Path, advance: Advance = no_progress
    ) -> None:
        self.study, self.data, self.options, self.checkpoints = study, data, options, checkpoints
        self._advance, self._stage = advance, ""
        self.setup = Setup.of(data, time.perf_counter(), self._show_progress)
        self.start = self.setup.recipe

    def _show_progress(self, stage: str, done: float, total: float) -> None:
        self._advance(f"{self._stage}{stage}", done, total)

    # --- the search ---------------------------------------------------------------------------------------------------------------------

    def run(self) -> Recipe:
        """Make the trials that are missing; returns the best recipe."""
        # The process of a running trial was killed: it is made again, from the folds that it had done.
        for unfinished in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(unfinished.number, state=TrialState.FAIL)
        if done := self._done():
            LOGGER.info(f"going on after {done} trials that are done")
        if done < self.options.trials:
            self._make_trials()
        if not self.study.get_trials(states=(TrialState.COMPLETE,)):
            raise CatcliError("no trial came to its end; give a longer --timeout, or fewer rows.")
        return self.recipe_of(self.study.best_trial.params)

    def _done(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED_STATES))

    def _make_trials(self) -> None:
        began, timeout = time.perf_counter(), self.options.timeout_seconds
        max_epochs = max(self.epochs())
        trials = CrossValidation.of(self.setup, self.options.folds, max_epochs)
        while (done := self._done()) < self.options.trials:
            if timeout is not None and time.perf_counter() - began > timeout:
                LOGGER.info(f"the time is over: {done} of {self.options.trials} trials are done; --resume goes on")
                break
            if not done and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(self.beginning())
            # A sampler of its own for every trial, seeded by how many were done: what comes next does not depend on which run makes it.
            self.study.sampler = optuna.samplers.TPESampler(
                seed=(self.start.seed * 1_000_003 + done) % 2**32, n_startup_trials=STARTUP_TRIALS, constant_liar=False
            )
            self._make(self.study.ask(), done, trials)

    def _make(self, trial: optuna.Trial, done: int, trials: CrossValidation) -> None:
        recipe = self.recipe_of(self.suggested(trial))
        self._stage = f"trial {done + 1} of {self.options.trials}: "

        def go_on(fold: int, score: float) -> bool:
            trial.report(score, fold)
            return fold + 1 == self.options.folds or not trial.should_prune()

        failed = [earlier.state == TrialState.FAIL for earlier in self.study.get_trials(deepcopy=False)[:-1]]
        score = None
        if len(failed) >= MAX_KILLED and all(failed[-MAX_KILLED:]):
            LOGGER.warning(f"trial {done + 1} is pruned: its process was killed {MAX_KILLED} times, as where memory runs out.")
        else:
            try:
                score = trials.score(recipe, self.checkpoints, go_on, self.options.metric)
            except (TrainingError, torch.OutOfMemoryError) as error:
                LOGGER.warning(f"trial {done + 1}: {reason(error)}")
        private_folder.clear(self.checkpoints)
        if score is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, score)
        outcome = "pruned" if score is None else f"{TITLES[self.options.metric]} {score:.4f}"
        LOGGER.info(f"trial {done + 1} of {self.options.trials}: {outcome} ({_describe_settings(trial.params)})")
        self._stage = ""

    # --- the space ----------------------------------------------------------------------------------------------------------------------

    def epochs(self) -> range:
        """Passes that are tried: up to twice what a fit makes of so many rows."""
        return range(1, 2 * (self.start.epochs or 1) + 1)

    def choices(self) -> dict[str, list[float]]:
        """`CHOICES` that this recipe has, what it says itself among them."""
        has_adapters = self.start.method in LORA_METHODS
        return {
            name: sorted({*values, getattr(self.start, name)})
            for name, values in CHOICES.items()
            if has_adapters or name not in ("rank", "alpha", "dropout")
        }

    def suggested(self, trial: optuna.Trial) -> dict[str, float]:
        """What the sampler wants to be tried next."""
        lr = self.start.lr or 1e-3
        sampled: dict[str, float] = {
            "lr": trial.suggest_float("lr", lr / LR_FACTOR, min(1.0, lr * LR_FACTOR), log=True),
            "epochs": trial.suggest_int("epochs", self.epochs()[0], self.epochs()[-1]),
        }
        return sampled | {name: trial.suggest_categorical(name, values) for name, values in self.choices().items()}

    def beginning(self) -> dict[str, float]:
        """The first trial: the recipe as it was given."""
        return {name: getattr(self.start, name) for name in ("lr", "epochs", *self.choices())}

    def recipe_of(self, params: Mapping[str, float]) -> Recipe:
        """The recipe with some of its numbers replaced."""
        return self.start.but(params)

    # --- what it came to ----------------------------------------------------------------------------------------------------------------

    def result(self, best: Recipe, target: Path) -> TuneResult:
        """The trials, what mattered, and how the best recipe and the first do on the test rows."""
        finished = self.study.get_trials(states=ENDED_STATES)
        trials = tuple(
            TrialResult(
                number=position,
                pruned=trial.state == TrialState.PRUNED,
                score=trial.value if trial.state == TrialState.COMPLETE else None,
                by_fold=tuple(value for _, value in sorted(trial.intermediate_values.items())),
                settings=trial.params,
                seconds=trial.duration.total_seconds() if trial.duration else 0.0,
            )
            for position, trial in enumerate(finished, 1)
        )
        number = next(position for position, trial in enumerate(finished, 1) if trial.number == self.study.best_trial.number)
        try:
            return TuneResult(
                metric=self.options.metric,
                folds=self.options.folds,
                trials=trials,
                best=number,
                importances=self.importances(),
                recipe=str(target),
                **self._on_test_rows(best),
            )
        except (ValidationError, TypeError, KeyError, ValueError) as error:  # what the study says of the test rows is not what was written
            raise OutputError(f"the study of {target} is damaged ({reason(error)[:200]}); pass --force to start again.") from error

    def importances(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains, by a random forest (fANOVA: Hutter et al. 2014); none for few trials."""
        complete = self.study.get_trials(states=(TrialState.COMPLETE,))
        if len(complete) < STARTUP_TRIALS or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importances = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {name: float(value) for name, value in importances.items()}

    def _on_test_rows(self, best: Recipe) -> dict[str, Any]:
        """Scores of the best recipe and of the first, and how they compare: once all trials are made, and kept in the study then."""
        stored = self.study.user_attrs.get("tested")
        if stored is not None and stored.get("recipe") == best.model_dump_json():
            return dict(stored["told"])
        if self._done() < self.options.trials:
            return {"test_rows": len(self.data.split.test), "test": None, "first": None, "against_first": None}
        LOGGER.info("scoring the best recipe on the test rows, which no trial has seen")
        tuned = score_on_test_rows(self.data, best, self.checkpoints / "tuned", self._show_progress)
        scores: dict[str, Any] = {"test_rows": tuned.evaluation.scored_rows, "test": tuned.evaluation.blend, "first": None}
        scores["against_first"] = None
        if best != self.start:
            first = score_on_test_rows(self.data, self.start, self.checkpoints / "first", self._show_progress)
            scores |= {"first": first.evaluation.blend, "against_first": compare_models(tuned.outcomes, first.outcomes, "tuned", "first")}
        scores = {name: value.model_dump(mode="json") if isinstance(value, Numbers) else value for name, value in scores.items()}
        self.study.set_user_attr("tested", {"recipe": best.model_dump_json(), "told": scores})
        return scores


def _describe_settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in settings.items())
