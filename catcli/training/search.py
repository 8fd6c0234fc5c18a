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
from catcli.commands.tune import SearchOptions
from catcli.config import LORA_METHODS, Recipe
from catcli.data.dataset.prepare import TrainingData
from catcli.data.io.output import write_errors
from catcli.errors import CatcliError, OutputError, TrainingError, UsageError, reason
from catcli.evaluation.metrics import TITLES, Numbers
from catcli.evaluation.requirements import LOWER_IS_BETTER
from catcli.evaluation.scores import compare_models
from catcli.evaluation.studies import TrialResult, TuneResult
from catcli.talk import Advance, Talk
from catcli.training.cross_validation import CrossValidation, score_on_test_rows
from catcli.training.learner import Learner
from catcli.training.task import TrainingMessages

STARTUP_TRIALS = 4
"""Trials that are drawn at random and never pruned, before the sampler and the pruner have something to go by."""

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
"""Times in a row that a trial's process may be killed before the trial is given up: it would be proposed, and killed, for ever."""

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
        raise OutputError(f"{file} cannot be written ({reason(error)}); mend that and run the same line with --resume.") from error


def open_study(file: Path, ready: TrainingData, search: SearchOptions, made_of: Mapping[str, str]) -> optuna.Study:
    """The study in ``file``, made where there is none; ``made_of`` is what beside rows and recipe decides a fit.

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
        raise OutputError(f"{file} is no study of catcli tune: {reason(error)}; choose another file with -o.") from error
    _check_mark(study, ready, search, file, made_of)
    return study


def _check_mark(study: optuna.Study, ready: TrainingData, search: SearchOptions, file: Path, made_of: Mapping[str, str]) -> None:
    """A study goes on with the rows, the recipe and the folds that it began with, or not at all.

    Raises:
        UsageError: something of these is another.
    """
    rows = hashlib.sha256()
    for text, number, key in zip(ready.labeled.texts, ready.labeled.classes.tolist(), ready.labeled.keys, strict=True):
        rows.update(f"{number} {key} {text}\n".encode("utf-8", "surrogatepass"))
    for text in ready.unlabeled.texts if ready.unlabeled else ():
        rows.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    mark = {
        "the rows": rows.hexdigest(),
        "the recipe": ready.recipe.model_dump_json(),
        "--folds": str(search.folds),
        "--metric": search.metric,
        **made_of,
    }
    kept = study.user_attrs.get("made from")
    if kept is None:
        study.set_user_attr("made from", mark)
        return
    if not isinstance(kept, dict) or not isinstance(study.user_attrs.get("tested", {}), dict):
        raise OutputError(f"{file} is no study of catcli tune: its notes are of another kind; choose another file with -o.")
    changed = [name for name, value in mark.items() if kept.get(name) != value]
    if changed:
        raise UsageError(
            f"--resume: since {file} was begun, {', '.join(changed)} changed; take back the change, pass --force to begin anew, or -o for "
            "another file."
        )


class Search:
    """One run of a search. What it knows of earlier trials stands in the study, so it does not matter which run made them."""

    def __init__(
        self, study: optuna.Study, ready: TrainingData, search: SearchOptions, checkpoints: Path, talk: Talk, advance: Advance
    ) -> None:
        self.study, self.ready, self.asked = study, ready, search
        self.checkpoints, self.talk, self.advance = checkpoints, talk, advance
        self.learner = Learner(ready, talk, TrainingMessages(self._heard, talk.say), time.perf_counter())
        self.start = self.learner.recipe
        self._stage = ""

    def _heard(self, stage: str, done: float, whole: float) -> None:
        self.advance(f"{self._stage}{stage}", done, whole)

    # --- the search ---------------------------------------------------------------------------------------------------------------------

    def search(self) -> Recipe:
        """Make the trials that are missing; returns the best recipe."""
        for left in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(left.number, state=TrialState.FAIL)  # its process was killed: it is made again, from the folds that it had done
        if kept := self._done():
            self.talk.say(f"going on after {kept} trials that are done")
        if kept < self.asked.trials:
            self._make_trials()
        if not self.study.get_trials(states=(TrialState.COMPLETE,)):
            raise CatcliError("no trial came to its end; give a longer --timeout, or fewer rows.")
        return self.recipe_of(self.study.best_trial.params)

    def _done(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED_STATES))

    def _make_trials(self) -> None:
        began = time.perf_counter()
        most_epochs = max(self.epochs())
        trials = CrossValidation.of(self.learner, self.asked.folds, most_epochs)
        while (done := self._done()) < self.asked.trials:
            if self.asked.timeout is not None and time.perf_counter() - began > self.asked.timeout:
                self.talk.say(f"the time is over: {done} of {self.asked.trials} trials are done; --resume goes on")
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
        self._stage = f"trial {done + 1} of {self.asked.trials}: "

        def after(fold: int, score: float) -> bool:
            trial.report(score, fold)
            return fold + 1 == self.asked.folds or not trial.should_prune()

        failed = [other.state == TrialState.FAIL for other in self.study.get_trials(deepcopy=False)[:-1]]
        score = None
        if len(failed) >= MAX_KILLED and all(failed[-MAX_KILLED:]):
            self.talk.warn(f"trial {done + 1} is given up: its process was killed {MAX_KILLED} times, as where memory runs out.")
        else:
            try:
                score = trials.run(recipe, self.checkpoints, after, self.asked.metric)
            except (TrainingError, torch.OutOfMemoryError) as error:
                self.talk.warn(f"trial {done + 1}: {reason(error)}")
        private_folder.clear(self.checkpoints)
        if score is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, score)
        said = "given up" if score is None else f"{TITLES[self.asked.metric]} {score:.4f}"
        self.talk.say(f"trial {done + 1} of {self.asked.trials}: {said} ({_told_settings(trial.params)})")
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
        drawn: dict[str, float] = {
            "lr": trial.suggest_float("lr", lr / LR_FACTOR, min(1.0, lr * LR_FACTOR), log=True),
            "epochs": trial.suggest_int("epochs", self.epochs()[0], self.epochs()[-1]),
        }
        return drawn | {name: trial.suggest_categorical(name, values) for name, values in self.choices().items()}

    def beginning(self) -> dict[str, float]:
        """The first trial: the recipe as it was given."""
        return {name: getattr(self.start, name) for name in ("lr", "epochs", *self.choices())}

    def recipe_of(self, params: Mapping[str, float]) -> Recipe:
        """The recipe with some of its numbers replaced."""
        return self.start.but(params)

    # --- what it came to ----------------------------------------------------------------------------------------------------------------

    def told(self, best: Recipe, target: Path) -> TuneResult:
        """The trials, what mattered, and how the best recipe and the first do on the test rows."""
        finished = self.study.get_trials(states=ENDED_STATES)
        trials = tuple(
            TrialResult(
                number=place,
                pruned=trial.state == TrialState.PRUNED,
                score=trial.value if trial.state == TrialState.COMPLETE else None,
                by_fold=tuple(value for _, value in sorted(trial.intermediate_values.items())),
                settings=trial.params,
                seconds=trial.duration.total_seconds() if trial.duration else 0.0,
            )
            for place, trial in enumerate(finished, 1)
        )
        number = next(place for place, trial in enumerate(finished, 1) if trial.number == self.study.best_trial.number)
        try:
            return TuneResult(
                metric=self.asked.metric,
                folds=self.asked.folds,
                trials=trials,
                best=number,
                importances=self.importances(),
                recipe=str(target),
                **self._on_test_rows(best),
            )
        except (ValidationError, TypeError, KeyError, ValueError) as error:  # what the study says of the test rows is not what was written
            raise OutputError(f"the study of {target} is damaged ({reason(error)[:200]}); pass --force to begin anew.") from error

    def importances(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains, by a random forest (fANOVA: Hutter et al. 2014); none for few trials."""
        complete = self.study.get_trials(states=(TrialState.COMPLETE,))
        if len(complete) < STARTUP_TRIALS or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {name: float(value) for name, value in found.items()}

    def _on_test_rows(self, best: Recipe) -> dict[str, Any]:
        """Scores of the best recipe and of the first, and how they compare: once all trials are made, and kept in the study then."""
        kept = self.study.user_attrs.get("tested")
        if kept is not None and kept.get("recipe") == best.model_dump_json():
            return dict(kept["told"])
        if self._done() < self.asked.trials:
            return {"test_rows": len(self.ready.parts.test), "test": None, "first": None, "against_first": None}
        self.talk.say("scoring the best recipe on the test rows, which no trial has seen")
        tuned = score_on_test_rows(self.ready, best, self.checkpoints / "tuned", self.talk, self.learner.tell)
        told: dict[str, Any] = {"test_rows": tuned.evaluation.scored_rows, "test": tuned.evaluation.blend, "first": None}
        told["against_first"] = None
        if best != self.start:
            first = score_on_test_rows(self.ready, self.start, self.checkpoints / "first", self.talk, self.learner.tell)
            told |= {"first": first.evaluation.blend, "against_first": compare_models(tuned.outcomes, first.outcomes, "tuned", "first")}
        told = {name: value.model_dump(mode="json") if isinstance(value, Numbers) else value for name, value in told.items()}
        self.study.set_user_attr("tested", {"recipe": best.model_dump_json(), "told": told})
        return told


def _told_settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in settings.items())
