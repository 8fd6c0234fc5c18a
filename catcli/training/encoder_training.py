"""The encoders of a fit, the base with LoRA: those that are scored, a holdout model or one for each fold, and the refit model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from catcli.adapter.folder import package_versions
from catcli.arrays import DoubleArray, FloatArray, IntArray
from catcli.atomic import atomic_write, read_small_file
from catcli.config import METHOD_TITLES
from catcli.data.dataset.examples import Examples, stratified_sample
from catcli.data.dataset.split import FoldSplit
from catcli.evaluation.without_rows import bounding_offset, widened
from catcli.export.trained_model import TrainedModel, TrainingHistory
from catcli.inference.tokens import Tokenizer
from catcli.logs import LOGGER, Advance, no_progress
from catcli.models.device import use_bf16
from catcli.models.losses import TeacherTargets
from catcli.training.base_features import BaseFeatures, compute_base_features
from catcli.training.checkpoint import Checkpoint
from catcli.training.distributed import broadcast_float, is_main_rank, rank_count
from catcli.training.loop import classifier_logits, train_classifier
from catcli.training.named_classes import add_to_head
from catcli.training.schedule import default_epochs
from catcli.training.setup import Setup
from catcli.training.task import TrainingTask
from catcli.training.time_budget import FEATURE_SHARE

MAX_ROW_PASSES = {"cpu": 60_000, "cuda": 4_000_000}
"""Rows times passes that the encoder learns from by default: minutes on either device with the embedded base, hours on a CPU with a larger
one, which is said before they begin. ``--time-budget`` replaces it."""

TIMED_FEATURE_ROWS = 256
"""Rows on which the base is timed before a time budget is shared out."""

MAX_TARGET_CELLS = 200_000_000
"""Texts times categories up to which unlabeled texts are added: the teacher's probabilities of so many take 400 MB."""

CHECKPOINT_FORMAT = 3
"""Of what a checkpoint holds: one of an older format is not resumed."""

MAX_EPOCH_VALIDATION_ROWS = 2_000
"""Validation rows that are scored after every epoch; the blend is chosen by all of them."""


@dataclass(frozen=True)
class TrainingInput:
    """What an encoder is trained on: ``examples``, their ``features`` and a teacher's ``targets``.

    ``always`` are the numbers of those that every training learns from: categories' names and unlabeled texts. ``fingerprint`` tells a
    checkpoint of these from one of others.
    """

    examples: Examples
    features: BaseFeatures
    targets: TeacherTargets | None
    always: IntArray
    fingerprint: str

    def task(self, train: IntArray, validation: IntArray, classes: int, seconds: float | None = None) -> TrainingTask:
        """A training on the examples ``train`` that is validated on ``validation``."""
        return TrainingTask(self.features, self.examples, train, validation, classes, seconds, self.targets)


@dataclass(frozen=True)
class EncoderResult:
    """The models of a fit: ``holdout``, None with folds, and ``refit``, None without one.

    ``out_of_fold`` are the logits *(held-out rows, classes)* by the models of the other folds, None with a holdout. ``history`` is that of
    the holdout model or of the first fold's; ``shares`` *(classes,)* and ``rows`` are of the holdout model's training rows, with folds of
    all rows; ``unlabeled_rows`` are the texts without a category.
    """

    holdout: TrainedModel | None
    refit: TrainedModel | None
    out_of_fold: FloatArray | None
    history: TrainingHistory
    shares: DoubleArray
    rows: int
    unlabeled_rows: int
    seconds: float

    @property
    def shipped(self) -> TrainedModel:
        """The model that is saved: the refit model, or the holdout model without a refit."""
        model = self.refit or self.holdout
        if model is None:
            raise ValueError("a fit with folds has a refit model")
        return model


class EncoderTraining:
    """Trains the encoders of one fit."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._recipe = setup, setup.recipe

    def train(self, checkpoints: Path) -> EncoderResult:
        """Train on the training rows, and refit on all rows where the recipe says so; the state is kept in ``checkpoints``."""
        started, setup, split = time.perf_counter(), self._setup, self._setup.split
        rows, unlabeled = self.select_rows(checkpoints)
        inputs = self.inputs(rows, unlabeled)
        everything = np.arange(len(inputs.examples))
        holdout, out_of_fold = None, None
        if isinstance(split, FoldSplit):
            out_of_fold, history = self.train_folds(inputs, split, checkpoints)
            unseen = out_of_fold
            shares, count = setup.shares, len(rows)
        else:
            labeled_train, validation = (np.flatnonzero(np.isin(rows, part)) for part in (split.train, split.validation))
            train = np.concatenate((labeled_train, inputs.always))
            remaining = setup.budget.remaining
            share = len(train) / (len(train) + len(everything)) if self._recipe.refit else 1.0
            task = inputs.task(train, validation, setup.class_count, remaining and remaining * share)
            checkpoint = Checkpoint(checkpoints / "held-out.safetensors", inputs.fingerprint)
            holdout = self._complete(train_classifier(task, setup.base, self._recipe, checkpoint, setup.advance))
            history, shares, count = holdout.history, task.shares, len(labeled_train)
            unseen = classifier_logits(holdout, task, validation) if setup.without_rows else np.empty((0, 0), np.float32)
        refit = None
        if self._recipe.refit:
            refit_task = inputs.task(everything, everything[:0], setup.class_count, setup.budget.remaining)
            checkpoint = Checkpoint(checkpoints / "refit.safetensors", inputs.fingerprint)
            refit = self._complete(train_classifier(refit_task, setup.base, self._recipe, checkpoint, setup.advance, repeat=history))
        if setup.without_rows:
            offset = widened(bounding_offset(unseen, setup.class_count), setup.class_count)
            for trained in filter(None, (holdout, refit)):
                trained.classifier.add_to_bias(offset)
            out_of_fold = None if out_of_fold is None else out_of_fold + offset
        return EncoderResult(holdout, refit, out_of_fold, history, shares, count, len(unlabeled), time.perf_counter() - started)

    def train_folds(self, inputs: TrainingInput, split: FoldSplit, checkpoints: Path) -> tuple[FloatArray, TrainingHistory]:
        """Logits *(held-out rows, classes)* of the rows by the model of the other folds, and the history of the first fold's.

        The first fold's rows say after how many epochs training is best, and every other training has as many; so that one number is
        chosen by rows that are scored, too. A fold that was trained
        before a kill is not trained again: its logits are in ``checkpoints``.
        """
        setup, seed = self._setup, self._recipe.seed
        logits = np.empty((len(setup.rows), len(setup.category_names)), np.float32)
        histories: list[TrainingHistory] = []
        LOGGER.info(f"{split.count + 1} trainings of about the same length: one for each fold, and one on all rows")
        for number in range(split.count):
            done = Checkpoint(checkpoints / f"fold-{number}-logits.safetensors", inputs.fingerprint)
            inside, saved = np.flatnonzero(split.fold == number), done.load()
            if saved is not None:
                logits[inside] = saved[0]["logits"].numpy()
                histories.append(TrainingHistory.of(saved[1]))
                continue
            first = histories[0] if histories else None
            train = np.concatenate((np.flatnonzero(split.fold != number), inputs.always))
            scored = inside[:0] if first else split.test[split.fold[split.test] == number]
            validation = stratified_sample(setup.rows.classes, scored, MAX_EPOCH_VALIDATION_ROWS, seed)
            task = inputs.task(train, validation, setup.class_count)
            checkpoint = Checkpoint(checkpoints / f"fold-{number}.safetensors", inputs.fingerprint)
            log = LOGGER.debug if first else LOGGER.info
            trained = self._complete(train_classifier(task, setup.base, self._recipe, checkpoint, setup.advance, first, log))
            logits[inside] = classifier_logits(trained, task, inside)
            histories.append(trained.history)
            if is_main_rank():
                done.save({"logits": torch.from_numpy(logits[inside])}, trained.history.progress())
                checkpoint.file.unlink(missing_ok=True)
        return logits[split.held_out], histories[0]

    def _complete(self, trained: TrainedModel) -> TrainedModel:
        """The trained model, which knows the categories without rows, too."""
        add_to_head(trained, self._setup.names, self._setup.texts_without_rows)
        return trained

    def select_rows(self, checkpoints: Path) -> tuple[IntArray, list[str]]:
        """The rows that the encoder reads, sorted: validation rows, and of the others as many as the limits allow.

        Unlabeled texts get what room the labeled rows leave.
        """
        setup, split, seed = self._setup, self._setup.split, self._recipe.seed
        others = np.union1d(split.train, split.test) if self._recipe.refit else split.train
        note, fingerprint = checkpoints / "rows", self.fingerprint(others, setup.unlabeled)
        # A fit that goes on takes the rows it had taken: how many there is time for would not be measured alike again.
        limit = _noted_rows(note, fingerprint) or self.affordable_rows(others)
        limit = int(broadcast_float(limit))
        if is_main_rank():
            checkpoints.mkdir(parents=True, exist_ok=True)
            with atomic_write(note) as path:
                path.write_text(json.dumps({"rows": limit, "fit": fingerprint}), encoding="utf-8")
        if limit < len(others):
            title = METHOD_TITLES[self._recipe.method]
            LOGGER.info(f"{title} is trained on a sample of {limit:,} of {len(others):,} rows; a longer --time-budget takes more")
        validation = stratified_sample(setup.rows.classes, split.validation, min(MAX_EPOCH_VALIDATION_ROWS, limit // 4), seed)
        train = stratified_sample(setup.rows.classes, others, limit, seed)
        unlabeled = self.fitting_unlabeled(len(train), limit)
        if len(unlabeled) < len(setup.unlabeled):
            LOGGER.info(f"{len(unlabeled):,} of {len(setup.unlabeled):,} unlabeled texts are used for training")
        return np.sort(np.concatenate((train, validation))), unlabeled

    def fitting_unlabeled(self, labeled: int, limit: int) -> list[str]:
        """The unlabeled texts that there is room for beside so many labeled rows, of ``limit`` rows in all."""
        room = MAX_TARGET_CELLS // self._setup.class_count - labeled - len(self._setup.names)
        return self._setup.unlabeled[: max(0, min(limit - labeled, room))]

    def affordable_rows(self, rows: IntArray) -> int:
        """How many of ``rows`` the encoder can be trained on: by the time budget, or in minutes."""
        setup, budget = self._setup, self._setup.budget
        remaining = budget.remaining
        if remaining is None:
            return MAX_ROW_PASSES[setup.device.type] // default_epochs(len(setup.split.train) + len(setup.unlabeled))
        if setup.device.type == "cuda":  # which takes seconds to start, once for the process
            self.features(setup.rows.take(rows[:1]), no_progress)
        seconds = []
        for count in (1, TIMED_FEATURE_ROWS):  # one row takes what loading the base does
            examples = setup.rows.take(stratified_sample(setup.rows.classes, rows, count, self._recipe.seed))
            start = time.perf_counter()
            self.features(examples, no_progress)
            if setup.teacher:
                setup.teacher.targets(examples)
            seconds.append(time.perf_counter() - start)
        budget.load_seconds, budget.feature_speed = seconds[0], len(examples) / max(seconds[1] - seconds[0], 1e-3)
        return max(TIMED_FEATURE_ROWS, int((budget.remaining or remaining) * FEATURE_SHARE * budget.feature_speed))

    def features(self, examples: Examples, advance: Advance) -> BaseFeatures:
        """The base's features of the examples."""
        setup, recipe = self._setup, self._recipe
        tokenizer = Tokenizer(setup.base.tokenizer, recipe.max_tokens or setup.base.longest, setup.base.pad_id)
        return compute_base_features(setup.base, tokenizer, examples.texts, setup.device, use_bf16(recipe.dtype, setup.device), advance)

    def inputs(self, rows: IntArray, unlabeled: Sequence[str]) -> TrainingInput:
        """What a training gets: ``rows``, the categories' names and ``unlabeled`` texts, with the teacher's targets for all of them."""
        setup = self._setup
        examples = setup.rows.take(rows).plus(setup.names).plus(Examples.without_classes(unlabeled))
        targets = None
        if setup.teacher:
            targets = setup.teacher.targets(examples, lambda done: setup.advance("the teacher labels", done, len(examples)))
        always = np.arange(len(rows), len(examples))
        return TrainingInput(examples, self.features(examples, setup.advance), targets, always, self.fingerprint(rows, unlabeled))

    def fingerprint(self, rows: IntArray, unlabeled: Sequence[str]) -> str:
        """The SHA-256 of what a checkpoint depends on: texts, categories, products, options, packages and the number of processes."""
        setup = self._setup
        teacher = setup.teacher.adapter.fingerprint if setup.teacher else None
        settings = [CHECKPOINT_FORMAT, self._recipe.model_dump(mode="json"), setup.base.sha256, package_versions(), rank_count(), teacher]
        digest = hashlib.sha256(json.dumps([*settings, setup.category_names]).encode("utf-8", "surrogatepass"))
        for row in rows:
            cells = setup.rows.classes[row], setup.labeled.keys[row], setup.rows.texts[row]  # the keys decide split and folds
            digest.update(f"{cells}\n".encode("utf-8", "surrogatepass"))
        for text in unlabeled:
            digest.update(f"{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _noted_rows(file: Path, fingerprint: str) -> int | None:
    """How many rows a stopped fit had taken; None where there was none, or one of other rows or options."""
    try:
        note = json.loads(read_small_file(file, 1024))
        return int(note["rows"]) if note["fit"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
