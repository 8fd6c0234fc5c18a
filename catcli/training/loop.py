"""The training loop: token ids and classes → a trained classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catcli.arrays import FloatArray, IntArray
from catcli.config import LORA_METHODS, Recipe
from catcli.errors import TrainingError
from catcli.evaluation.fit_metrics import EpochScores
from catcli.export.torch_inference import to_device
from catcli.export.trained_model import TrainedModel, TrainingHistory
from catcli.logs import LOGGER, Advance, no_progress
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier, count_parameters
from catcli.models.device import pick_device
from catcli.models.losses import weighted_examples
from catcli.models.methods import default_learning_rate, prepare_model
from catcli.training.checkpoint import Checkpoint
from catcli.training.distributed import broadcast_float, is_main_rank, sum_gradients
from catcli.training.forward import Forward
from catcli.training.head_init import fit_initial_head
from catcli.training.schedule import Schedule, default_epochs, learning_rate_factor, length_sorted_batches
from catcli.training.task import TrainingTask
from catcli.wording import duration

PATIENCE = 2
"""Epochs without a lower validation loss after which training stops."""

TIMED_STEPS = 3
"""Steps that are timed, without learning from them, to say how long the rest will take."""

LOSS_READ_STEPS = {"cpu": 1, "cuda": 32}
"""Steps after which their losses are read: a GPU has to finish what it was asked for first, and then waits for the next step."""

CHECKPOINT_SECONDS = 60.0
"""Seconds after which the state is kept within an epoch too."""

MAX_CHECKPOINT_SHARE = 0.05
"""Share of the time that keeping it may take: that of a base trained whole is sixteen bytes a parameter."""


def train_classifier(
    task: TrainingTask,
    base: Backbone,
    recipe: Recipe,
    checkpoint: Checkpoint,
    advance: Advance = no_progress,
    repeat: TrainingHistory | None = None,
    log: Callable[[str], None] = LOGGER.info,
) -> TrainedModel:
    """Train a classifier on ``base`` as ``recipe`` says; the validation rows say after how many passes it was best.

    With ``repeat``, a training on fewer rows, as many passes are made as were best there. A training whose state ``checkpoint`` holds
    continues from it.
    """
    device = pick_device(recipe.device)
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load("sdpa"), task.classes, base.pool)
    prepare_model(classifier, base, recipe)
    examples = weighted_examples(task.examples.take(task.labeled), recipe.balance, task.shares)
    weight, bias = fit_initial_head(task.features.vectors[task.labeled], examples, task.classes)
    if recipe.balance == "logit-adjust":  # its loss adds what the categories' shares say; the probe has learned it
        bias -= np.log(task.shares).astype(np.float32)
    classifier.start_head(weight, bias)
    trainer = Trainer(classifier, base, recipe, task, device, advance, log)
    history = trainer.train(checkpoint, repeat)
    return TrainedModel(classifier, base, task.features.tokenizer, recipe, str(device), history, *count_parameters(classifier))


def classifier_logits(trained: TrainedModel, task: TrainingTask, rows: IntArray) -> FloatArray:
    """Logits *(rows, classes)* of texts of ``task``, which ``trained`` was trained on."""
    forward = Forward(trained.classifier, trained.base, trained.recipe, task, pick_device(trained.recipe.device))
    with forward.ready():
        return forward.logits(rows, "scoring")


@dataclass
class TrainingState:
    """How far a training has come: what a checkpoint holds beside the tensors."""

    schedule: Schedule
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    history: list[EpochScores] = field(default_factory=list)

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> TrainingState:
        """The state in a checkpoint."""
        schedule, history = Schedule(**progress["schedule"]), [EpochScores(**epoch) for epoch in progress["history"]]
        return cls(**{**progress, "schedule": schedule, "history": history})


class Trainer:
    """Trains one classifier on one device. The order of rows and every draw follow the recipe's seed and the step alone."""

    def __init__(
        self,
        classifier: Classifier,
        base: Backbone,
        recipe: Recipe,
        task: TrainingTask,
        device: torch.device,
        advance: Advance = no_progress,
        log: Callable[[str], None] = LOGGER.info,
    ) -> None:
        self.forward = Forward(classifier, base, recipe, task, device, advance, log)
        self.recipe, self.task, self.device, self._advance, self._log = recipe, task, device, advance, log
        self.lr = recipe.lr or default_learning_rate(base, recipe.method)
        length = float(np.linalg.norm(task.features.vectors, axis=1).mean())
        self.head_rate = base.head_rate(length) if recipe.method in LORA_METHODS else 1.0
        self.trained = {name: parameter for name, parameter in classifier.named_parameters() if parameter.requires_grad}

    def train(self, checkpoint: Checkpoint, repeat: TrainingHistory | None) -> TrainingHistory:
        """Train on the task's rows; after every epoch score the validation rows, if any, and end with the weights of the lowest loss.

        With ``repeat`` the learning rate has the same schedule, and as many passes are made as were best there.
        """
        with self.forward.ready():
            saved = checkpoint.load()
            state = TrainingState.of(saved[1]) if saved else TrainingState(self._schedule(repeat))
            optimizer = self._optimizer()
            best: dict[str, Tensor] = {}
            if saved:
                best = self._restore(saved[0], optimizer)
                self._log(f"going on from step {state.step:,} of {state.schedule.steps:,}")
            while state.epoch < state.schedule.epochs and state.step < state.schedule.steps and not self._should_stop(state):
                self._run_epoch(state, optimizer, checkpoint, best)
                best = self._end_epoch(state, best)
                self._save(state, optimizer, checkpoint, best)
            with torch.no_grad():
                for name, value in best.items():
                    self.trained[name].copy_(value)
        per_epoch = self._steps(len(self.task.train))
        return TrainingHistory(tuple(state.history), state.best_step / per_epoch, state.schedule.horizon / per_epoch)

    def _steps(self, rows: int) -> int:
        return max(1, -(-rows // self.recipe.batch_size))

    def _schedule(self, repeat: TrainingHistory | None) -> Schedule:
        """How many steps, after timing a few of them: a time limit shortens the run, and the learning rate then falls faster."""
        rows = len(self.task.train)
        per_epoch = self._steps(rows)
        if repeat:
            steps, horizon = max(1, round(repeat.passes * per_epoch)), max(1, round(repeat.planned_passes * per_epoch))
        else:
            steps = horizon = (self.recipe.epochs or default_epochs(rows)) * per_epoch
        each = broadcast_float(self._time_step())
        # Every process needs the same schedule, and each has its own clock.
        seconds = None if self.task.seconds is None else broadcast_float(self.task.seconds)
        if seconds is not None and (allowed := max(1, int(seconds / each))) < steps:
            # "Budgeted Training" (Li, Yumer & Ramanan 2020): within a fixed time a rate that falls to zero by its end does best.
            horizon, steps = max(1, round(horizon * allowed / steps)), allowed
        epochs = -(-steps // per_epoch)
        up_to, shown = "" if repeat else "up to ", f"{steps / per_epoch:.3g}"
        self._log(
            f"training: {up_to}{shown} {'epoch' if shown == '1' else 'epochs'} over {rows:,} texts, {duration(each * per_epoch)} each, "
            f"{up_to}{duration(each * steps)} in all on {self.device}"
        )
        return Schedule(epochs, steps, horizon)

    def _time_step(self) -> float:
        """Seconds of a step."""
        batches = self._batches(epoch=0)
        timed = [batches[number] for number in np.linspace(0, len(batches) - 1, TIMED_STEPS).astype(int)]
        self.forward.classifier.train()
        # A GPU prepares for each new shape when it comes first.
        warm_up = timed if self.device.type == "cuda" else timed[:1]
        for number, rows in enumerate([*warm_up, *timed]):
            if number == len(warm_up):
                start = self._clock()
            self.forward.add_gradient(rows)
        self.forward.classifier.zero_grad(set_to_none=True)
        return max((self._clock() - start) / len(timed), 1e-6)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _batches(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng((self.recipe.seed, epoch))
        lengths = [len(self.task.features.ids[row]) for row in self.task.train]
        return [[int(self.task.train[row]) for row in rows] for rows in length_sorted_batches(lengths, self.recipe.batch_size, generator)]

    def _run_epoch(
        self, state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]
    ) -> None:
        """The rest of an epoch, or of the schedule."""
        self.forward.classifier.train()
        stage = f"epoch {state.epoch + 1} of {state.schedule.epochs}"
        batches = self._batches(state.epoch)
        start = saved = time.perf_counter()
        before, took = state.seconds, 0.0
        losses: list[Tensor] = []
        for rows in batches[state.step_in_epoch : state.step_in_epoch + state.schedule.steps - state.step]:
            torch.manual_seed(self.recipe.seed * 1_000_003 + state.step)
            losses.append(self.forward.add_gradient(rows))
            if len(losses) >= LOSS_READ_STEPS[self.device.type]:
                self._add_losses(losses, state, stage)
            sum_gradients(self.trained.values())
            nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * group["rate"] * learning_rate_factor(state.step, state.schedule.horizon)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.step_in_epoch += 1
            state.weight_sum += float(self.task.examples.weights[rows].sum())
            state.seconds = before + time.perf_counter() - start
            self._advance(stage, min(state.step_in_epoch * self.recipe.batch_size, len(self.task.train)), len(self.task.train))
            if time.perf_counter() - saved > max(CHECKPOINT_SECONDS, took / MAX_CHECKPOINT_SHARE):
                saving = time.perf_counter()
                self._add_losses(losses, state, stage)
                self._save(state, optimizer, checkpoint, best)
                saved = time.perf_counter()
                took = saved - saving
        self._add_losses(losses, state, stage)

    def _add_losses(self, losses: list[Tensor], state: TrainingState, stage: str) -> None:
        """Add the losses of the last steps to the epoch's sum, and empty the list.

        Raises:
            TrainingError: a loss is not finite.
        """
        for loss in torch.stack(losses).tolist() if losses else ():
            if not np.isfinite(loss):
                raise TrainingError(f"training diverged: the loss is {loss} in {stage}; try a lower --lr than {self.lr:g}.")
            state.loss_sum += loss
        losses.clear()

    def _end_epoch(self, state: TrainingState, best: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score the validation rows and return the weights to keep so far."""
        loss, accuracy = None, None
        task = self.task
        if len(task.validation):
            stage = f"epoch {state.epoch + 1} of {state.schedule.epochs}: validation"
            logits = self.forward.logits(task.validation, stage)
            truth = task.examples.classes[task.validation]
            losses = self.forward.row_losses(to_device(logits, self.device), to_device(truth, self.device), task.validation)
            # One process's number for all: they have to stop after the same epoch.
            loss = broadcast_float(float(losses.mean()))
            accuracy = float((logits.argmax(1) == truth).mean())
        state.history.append(
            EpochScores(
                train_loss=state.loss_sum / max(state.weight_sum, 1e-9),
                validation_loss=loss,
                validation_accuracy=accuracy,
                seconds=state.seconds,
            )
        )
        state.epoch, state.step_in_epoch, state.loss_sum, state.weight_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0, 0.0
        if loss is not None and state.best_loss is not None and loss >= state.best_loss:
            return best
        state.best_loss, state.best_step = loss, state.step
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @staticmethod
    def _should_stop(state: TrainingState) -> bool:
        losses = [epoch.validation_loss for epoch in state.history if epoch.validation_loss is not None]
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trained.items():
            rate = self.head_rate if name.startswith("head.") else 1.0
            groups.setdefault((rate, self.recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        return torch.optim.AdamW(
            [{"params": parameters, "rate": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
            lr=self.lr,
            fused=True,
        )

    def _save(self, state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]) -> None:
        """Save everything that a step changes, by name."""
        if not is_main_rank():
            return
        tensors = {f"now/{name}": parameter for name, parameter in self.trained.items()} | {f"best/{name}": best[name] for name in best}
        for name, parameter in self.trained.items():
            tensors |= {f"adam/{key}/{name}": value for key, value in optimizer.state[parameter].items()}
        checkpoint.save(tensors, {**asdict(state), "history": [epoch.model_dump() for epoch in state.history]})

    def _restore(self, saved: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Put back what `_save` saved; returns the best weights so far."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(saved[f"now/{name}"])
                # A parameter that no gradient reached yet has no state.
                state = {key: saved[f"adam/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"adam/{key}/{name}" in saved}
                if state:
                    optimizer.state[parameter] = {key: value.to(self.device) for key, value in state.items()}
        return {name.removeprefix("best/"): value.to(self.device) for name, value in saved.items() if name.startswith("best/")}
