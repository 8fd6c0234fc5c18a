"""What ``catcli tune`` measures: a recipe on folds of the rows that may choose, and at the end, once, on those that score."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catcli.adapter.manifest import VariantInfo
from catcli.arrays import FloatArray, IntArray
from catcli.config import Recipe
from catcli.data.dataset.examples import stratified_sample
from catcli.data.dataset.prepare import TrainingData
from catcli.data.dataset.split import assign_folds
from catcli.errors import ProductsError
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.calibration import BlendCalibration, fit_scale
from catcli.evaluation.evaluate import EvaluatedRows, ScoredRows, evaluate_rows
from catcli.export.onnx_files import MODEL_FILES
from catcli.export.torch_inference import torch_logits
from catcli.models.losses import implied_class_shares
from catcli.talk import Talk
from catcli.training.checkpoint import Checkpoint
from catcli.training.learner import MAX_ROW_PASSES, Learner, TrainingInput
from catcli.training.linear import logit_adjustment, out_of_fold_logits
from catcli.training.loop import classifier_logits, train_classifier
from catcli.training.task import TrainingMessages

MIN_TRIAL_ROWS = 500
"""Rows that a trial learns from at least, where there are so many."""


@dataclass
class CrossValidation:
    """The rows of all trials: read once, dealt out to the folds once, and the linear model's word on them.

    ``rows`` are the numbers of the rows that train or choose in a fit, never of those that score it; ``fold`` *(rows,)* is the fold of
    each, ``linear`` are the linear model's out-of-fold logits *(rows, classes)*, zeros for rows in no fold.
    """

    learner: Learner
    studied: TrainingInput
    rows: IntArray
    fold: IntArray
    linear: FloatArray
    count: int

    @classmethod
    def of(cls, learner: Learner, count: int, most_epochs: int) -> CrossValidation:
        """Deal ``learner``'s rows out to ``count`` folds; of very many a draw, so that a trial of ``most_epochs`` takes what a fit does."""
        parts, recipe = learner.parts, learner.recipe
        whole = np.sort(np.concatenate((parts.train, parts.validation)))
        most = max(MIN_TRIAL_ROWS, MAX_ROW_PASSES[learner.device.type] // (most_epochs * (count - 1)))
        rows = stratified_sample(learner.rows.classes, whole, most, recipe.seed)
        if len(rows) < len(whole):
            learner.talk.say(f"every trial learns from a draw of {len(rows):,} of {len(whole):,} rows")
        examples = learner.rows.take(rows)
        fold = assign_folds([learner.labeled.keys[row] for row in rows], examples.classes, count, recipe.split_seed)
        sizes = np.bincount(fold[fold >= 0], minlength=count)
        if not sizes.all():
            raise ProductsError(
                f"--folds {count}: {int((sizes > 0).sum())} folds are all that {len(rows):,} rows give, since products stay whole and the "
                "only one of a category always teaches; ask for fewer folds or add labeled rows."
            )
        linear = np.zeros((len(rows), learner.count), np.float32)
        logits, scored = out_of_fold_logits(learner.balanced(examples), fold, learner.names, learner.count, recipe.seed)
        if recipe.balance == "logit-adjust":
            logits = logits + logit_adjustment(learner.shares, fit_scale(logits, examples.classes[scored]))
        linear[scored] = logits
        return cls(learner, learner.studied(rows, learner.unlabeled_beside(len(rows), most)), rows, fold, linear, count)

    def run(self, recipe: Recipe, checkpoints: Path, after: Callable[[int, float], bool], metric: str) -> float | None:
        """The score of ``recipe`` over all folds; None where ``after``, told of the score so far, says that it is not worth going on.

        A fold that was trained before a kill is not trained again: its state is in ``checkpoints``, which is the caller's to remove.
        """
        probabilities = np.zeros_like(self.linear)
        score = 0.0
        for number in range(self.count):
            inside = np.flatnonzero(self.fold == number)
            probabilities[inside] = self._fold(number, recipe, checkpoints)
            score = self._score(np.flatnonzero((self.fold >= 0) & (self.fold <= number)), probabilities, metric)
            if not after(number, score):
                return None
        return score

    def _fold(self, number: int, recipe: Recipe, checkpoints: Path) -> FloatArray:
        """The blend's probabilities *(rows, classes)* of a fold's rows, which chose nothing of it.

        Of the rows of the other folds a part is to the training what validation rows are to a fit: it says after which pass it was best,
        and what weights the blend has. The linear model's logits for it are out-of-fold, too.
        """
        inside, others = np.flatnonzero(self.fold == number), np.flatnonzero(self.fold != number)
        choosing = self._choosing(others)
        learn = np.concatenate((np.setdiff1d(others, choosing), self.studied.beside))
        task = self.studied.task(learn, choosing, self.learner.count)
        mark = f"{self.studied.mark} {recipe.model_dump_json()} {number}"
        checkpoint = Checkpoint(checkpoints / f"fold-{number}.safetensors", mark)
        learner = self.learner
        trained = train_classifier(task, learner.base, recipe, checkpoint, TrainingMessages(learner.tell.advance))
        logits = classifier_logits(trained, task, np.concatenate((choosing, inside)))
        own, scored = logits[: len(choosing)], logits[len(choosing) :]
        truth, shares = self.studied.examples.classes[choosing], implied_class_shares(recipe.balance, task.shares)
        return BlendCalibration.fit({"fp32": own}, self.linear[choosing], truth, shares).probabilities(scored, self.linear[inside], "fp32")

    def _choosing(self, others: IntArray) -> IntArray:
        """A part of the rows of other folds, by product, as large as a fit's validation rows are."""
        inside = others[self.fold[others] >= 0]  # the others have no out-of-fold logits
        keys = [self.learner.labeled.keys[self.rows[row]] for row in inside]
        parts = round(100 / self.learner.recipe.split[1])
        dealt = assign_folds(keys, self.studied.examples.classes[inside], parts, self.learner.recipe.split_seed + 1)
        found: IntArray = inside[dealt == 0]
        return found if len(found) else inside

    def _score(self, rows: IntArray, probabilities: FloatArray, metric: str) -> float:
        """A metric of the blend on some rows."""
        products = self.learner.labeled.products(self.rows[rows])
        return float(Outcomes.of(probabilities[rows], self.studied.examples.classes[rows], products).point.metrics[metric][0])


def score_on_test_rows(ready: TrainingData, recipe: Recipe, checkpoints: Path, talk: Talk, tell: TrainingMessages) -> EvaluatedRows:
    """What a fit of ``recipe`` would tell of the test rows; nothing is exported."""
    learner = Learner(replace(ready, recipe=recipe.but({"refit": False})), talk, tell, time.perf_counter())
    labeled, held_out, choosing = learner.labeled, learner.parts.held_out, len(learner.parts.validation)
    held = [labeled.texts[row] for row in held_out]
    _, linear, crossed = learner.train_linear(held)
    trained, _, _ = learner.train(checkpoints)
    logits = torch_logits(trained.classifier.cpu(), trained.tokenizer, trained.tokenizer.encode(held))
    blending = learner.blending({"fp32": logits}, linear, crossed)
    rows = held_out[choosing:]
    names, method = labeled.categories.names, learner.recipe.method
    scored = ScoredRows({"fp32": logits[choosing:]}, linear[choosing:], labeled.classes[rows], labeled.products(rows), names, method)
    return evaluate_rows(scored, "fp32", blending, VariantInfo(file=MODEL_FILES["fp32"], confidence=blending.confidences["fp32"]))
