"""What ``catcli tune`` measures: a recipe by cross-validation over training and validation rows; the best, once, on test rows."""

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
from catcli.logs import LOGGER, Advance
from catcli.models.losses import implied_class_shares
from catcli.training.checkpoint import Checkpoint
from catcli.training.encoder_training import MAX_ROW_PASSES, EncoderTraining, TrainingInput
from catcli.training.fit import fit_blend
from catcli.training.linear import out_of_fold_logits
from catcli.training.linear_balance import logit_adjustment
from catcli.training.linear_training import LinearTraining
from catcli.training.loop import classifier_logits, train_classifier
from catcli.training.setup import Setup

MIN_TRIAL_ROWS = 500
"""Rows that a trial learns from at least, where there are so many."""


@dataclass
class CrossValidation:
    """The rows of all trials: tokenized once, assigned to the folds once, with the linear model's out-of-fold logits.

    ``rows`` are the numbers of training and validation rows, never of test rows; ``fold`` *(rows,)* is the fold of each, ``linear`` are the
    linear model's out-of-fold logits *(rows, classes)*, zeros for rows in no fold.
    """

    setup: Setup
    inputs: TrainingInput
    rows: IntArray
    fold: IntArray
    linear: FloatArray
    folds: int

    @classmethod
    def of(cls, setup: Setup, folds: int, max_epochs: int) -> CrossValidation:
        """Assign the rows to ``folds``; of very many a sample, so that a trial of ``max_epochs`` takes what a fit does.

        Raises:
            ProductsError: the rows give fewer folds.
        """
        split, recipe = setup.split, setup.recipe
        candidates = np.sort(np.concatenate((split.train, split.validation)))
        limit = max(MIN_TRIAL_ROWS, MAX_ROW_PASSES[setup.device.type] // (max_epochs * (folds - 1)))
        rows = stratified_sample(setup.rows.classes, candidates, limit, recipe.seed)
        if len(rows) < len(candidates):
            LOGGER.info(f"every trial is trained on a sample of {len(rows):,} of {len(candidates):,} rows")
        examples = setup.rows.take(rows)
        fold = assign_folds([setup.labeled.keys[row] for row in rows], examples.classes, folds, recipe.split_seed)
        fold[rows >= len(setup.rows) - setup.labeled.taught] = -1
        sizes = np.bincount(fold[fold >= 0], minlength=folds)
        if not sizes.all():
            raise ProductsError(
                f"--folds {folds}: {len(rows):,} rows give {int((sizes > 0).sum())} folds, since products stay together and the only "
                "product of a category is always a training row; choose fewer folds or add labeled rows."
            )
        linear = np.zeros((len(rows), setup.class_count), np.float32)
        balanced = LinearTraining(setup).balanced(examples)
        logits, scored = out_of_fold_logits(balanced, fold, setup.names, setup.class_count, recipe.seed)
        if recipe.balance == "logit-adjust":
            logits = logits + logit_adjustment(setup.shares, fit_scale(logits, examples.classes[scored]))
        linear[scored] = logits
        encoder = EncoderTraining(setup)
        return cls(setup, encoder.inputs(rows, encoder.fitting_unlabeled(len(rows), limit)), rows, fold, linear, folds)

    def score(self, recipe: Recipe, checkpoints: Path, go_on: Callable[[int, float], bool], metric: str) -> float | None:
        """The score of ``recipe`` over all folds; None where ``go_on``, given a fold and the score so far, says that it is not worth it.

        A fold that was trained before a kill is not trained again: its state is in ``checkpoints``, which the caller deletes.
        """
        probabilities = np.zeros_like(self.linear)
        score = 0.0
        for number in range(self.folds):
            inside = np.flatnonzero(self.fold == number)
            probabilities[inside] = self._fold_probabilities(number, recipe, checkpoints)
            score = self._metric(np.flatnonzero((self.fold >= 0) & (self.fold <= number)), probabilities, metric)
            if not go_on(number, score):
                return None
        return score

    def _fold_probabilities(self, number: int, recipe: Recipe, checkpoints: Path) -> FloatArray:
        """The blend's probabilities *(rows, classes)* of a fold's rows, by which nothing was chosen.

        A part of the other folds' rows is to the training what validation rows are to a fit: it says after which epoch it was best, and
        what weights the blend has. The linear model's logits for it are out-of-fold, too.
        """
        setup, inputs = self.setup, self.inputs
        inside, others = np.flatnonzero(self.fold == number), np.flatnonzero(self.fold != number)
        validation = self._validation_rows(others)
        train = np.concatenate((np.setdiff1d(others, validation), inputs.always))
        task = inputs.task(train, validation, setup.class_count)
        checkpoint = Checkpoint(checkpoints / f"fold-{number}.safetensors", f"{inputs.fingerprint} {recipe.model_dump_json()} {number}")
        trained = train_classifier(task, setup.base, recipe, checkpoint, setup.advance, log=LOGGER.debug)
        logits = classifier_logits(trained, task, np.concatenate((validation, inside)))
        of_validation, of_fold = logits[: len(validation)], logits[len(validation) :]
        truth, shares = inputs.examples.classes[validation], implied_class_shares(recipe.balance, task.shares)
        blend = BlendCalibration.fit({"fp32": of_validation}, self.linear[validation], truth, shares)
        return blend.probabilities(of_fold, self.linear[inside], "fp32")

    def _validation_rows(self, others: IntArray) -> IntArray:
        """A part of the other folds' rows, by product, as large as a fit's validation rows are."""
        inside = others[self.fold[others] >= 0]  # the others have no out-of-fold logits
        keys = [self.setup.labeled.keys[self.rows[row]] for row in inside]
        parts = round(100 / self.setup.recipe.split[1])
        part = assign_folds(keys, self.inputs.examples.classes[inside], parts, self.setup.recipe.split_seed + 1)
        rows: IntArray = inside[part == 0]
        return rows if len(rows) else inside

    def _metric(self, rows: IntArray, probabilities: FloatArray, metric: str) -> float:
        """A metric of the blend on some rows."""
        products = self.setup.labeled.products(self.rows[rows])
        return float(Outcomes.of(probabilities[rows], self.inputs.examples.classes[rows], products).point.metrics[metric][0])


def score_on_test_rows(data: TrainingData, recipe: Recipe, checkpoints: Path, advance: Advance) -> EvaluatedRows:
    """What a fit of ``recipe`` without a refit would report of the test rows; nothing is exported."""
    setup = Setup.of(replace(data, recipe=recipe.but({"refit": False, "folds": 0})), time.perf_counter(), advance)
    labeled, held_out, validation = setup.labeled, setup.split.held_out, len(setup.split.validation)
    linear, encoder = LinearTraining(setup).train(), EncoderTraining(setup).train(checkpoints)
    model = encoder.shipped
    logits = torch_logits(model.classifier.cpu(), model.tokenizer, model.tokenizer.encode(setup.held_out_texts))
    blend = fit_blend(setup, encoder, linear, {"fp32": logits})
    rows = held_out[validation:]
    scored = ScoredRows(
        {"fp32": logits[validation:]},
        linear.logits[validation:],
        labeled.classes[rows],
        labeled.products(rows),
        setup.category_names,
        setup.recipe.method,
    )
    return evaluate_rows(scored, "fp32", blend, VariantInfo(file=MODEL_FILES["fp32"], confidence=blend.confidences["fp32"]))
