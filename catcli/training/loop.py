"""The loop: token ids and classes → a trained classifier."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catcli.arrays import FloatArray, IntArray
from catcli.config import Recipe
from catcli.data.dataset.examples import UNLABELED
from catcli.errors import TrainingError
from catcli.evaluation.fit_metrics import EpochScores
from catcli.export.torch_inference import autocast, batch_tensors, run_batches, to_device
from catcli.export.trained_model import TrainedModel
from catcli.inference.tokens import TokenBatch
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier, count_parameters
from catcli.models.device import is_out_of_memory, pick_device, use_bf16
from catcli.models.losses import distillation_loss, log_prior, make_row_loss, weighted_examples
from catcli.models.methods import default_learning_rate, prepare_model
from catcli.training.checkpoint import Checkpoint
from catcli.training.distributed import ranks
from catcli.training.feature_cache import start_at_block
from catcli.training.head_init import fit_initial_head
from catcli.training.precision import frozen_matrices, in_bfloat16
from catcli.training.schedule import Schedule, default_epochs, learning_rate_factor, length_sorted_batches
from catcli.training.task import TrainingMessages, TrainingTask
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
    task: TrainingTask, base: Backbone, recipe: Recipe, checkpoint: Checkpoint, tell: TrainingMessages, repeat: TrainedModel | None = None
) -> TrainedModel:
    """Train a classifier on ``base`` as ``recipe`` says; the validation rows say after how many passes it was best.

    With ``repeat``, a training on fewer rows, as many passes are made as were best there. A training whose state ``checkpoint`` holds
    goes on from it.
    """
    device = pick_device(recipe.device)
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load("sdpa"), task.count, base.pool)
    prepare_model(classifier, base, recipe)
    taught = weighted_examples(task.examples.take(task.labeled), recipe.balance, task.shares)
    weight, bias = fit_initial_head(task.reading.vectors[task.labeled], taught, task.count)
    if recipe.balance == "logit-adjust":  # its loss adds what the categories' shares say; the probe has learned it
        bias -= np.log(task.shares).astype(np.float32)
    classifier.start_head(weight, bias)
    trainer = Trainer(classifier, base, recipe, task, device, tell)
    epochs, passes, of = trainer.train(checkpoint, repeat)
    return TrainedModel(
        classifier, base, task.reading.tokenizer, recipe, str(device), tuple(epochs), passes, of, *count_parameters(classifier)
    )


def classifier_logits(trained: TrainedModel, task: TrainingTask, rows: IntArray) -> FloatArray:
    """Logits *(rows, classes)* of texts of ``task``, which ``trained`` is of."""
    trainer = Trainer(trained.classifier, trained.base, trained.recipe, task, pick_device(trained.recipe.device), TrainingMessages())
    return trainer.look(rows)


@dataclass
class TrainingState:
    """Where a training stands: what a checkpoint keeps beside the tensors."""

    plan: Schedule
    step: int = 0
    epoch: int = 0
    within: int = 0
    loss: float = 0.0
    weight: float = 0.0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    history: list[EpochScores] = field(default_factory=list)

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> TrainingState:
        """What a checkpoint kept of one."""
        plan, history = Schedule(**progress["plan"]), [EpochScores(**epoch) for epoch in progress["history"]]
        return cls(**{**progress, "plan": plan, "history": history})


class Trainer:
    """Trains one classifier on one device. The order of rows and every draw follow the recipe's seed and the step alone."""

    def __init__(
        self, classifier: Classifier, base: Backbone, recipe: Recipe, task: TrainingTask, device: torch.device, tell: TrainingMessages
    ) -> None:
        self.classifier = classifier.to(device)
        self.base = base
        self.recipe = recipe
        self.task = task
        self.device = device
        self.tell = tell
        self.bf16 = use_bf16(recipe.dtype, device)
        self.lr = recipe.lr or default_learning_rate(base, recipe.method)
        self.losses = make_row_loss(recipe.balance, task.shares, device)
        self.prior = log_prior(recipe.balance, task.shares, device)
        # A base that stays as it is gives the same vectors at every pass: they are read once, and the head alone is run.
        self._vectors = torch.from_numpy(task.reading.vectors).to(device) if recipe.method == "head" else None
        self._given: list[Tensor] | None = None
        self._pieces = 1
        self.learning = {name: parameter for name, parameter in classifier.named_parameters() if parameter.requires_grad}

    def train(self, checkpoint: Checkpoint, repeat: TrainedModel | None) -> tuple[list[EpochScores], float, float]:
        """Train on the task's rows; after every epoch look at the validation rows, if any, and end with the weights they liked best.

        Returns the epochs, the passes over the rows that the best weights had seen, and those that the learning rate was laid out for.
        """
        with self._entered() as self._given:
            kept = checkpoint.load()
            state = TrainingState.of(kept[1]) if kept else TrainingState(self._plan(repeat))
            optimizer = self._optimizer()
            best: dict[str, Tensor] = {}
            if kept:
                best = self._restore(kept[0], optimizer)
                self.tell.say(f"going on from step {state.step:,} of {state.plan.steps:,}")
            while state.epoch < state.plan.epochs and state.step < state.plan.steps and not self._worn_out(state):
                self._epoch(state, optimizer, checkpoint, best)
                best = self._look(state, best)
                self._keep(state, optimizer, checkpoint, best)
            with torch.no_grad():
                for name, value in best.items():
                    self.learning[name].copy_(value)
        per_epoch = self._steps(len(self.task.learn))
        return state.history, state.best_step / per_epoch, state.plan.horizon / per_epoch

    def look(self, rows: IntArray) -> FloatArray:
        """Logits *(rows, classes)* of texts of the task, outside of a training."""
        with self._entered() as self._given:
            return self.logits(rows, "scoring")

    @contextmanager
    def _entered(self) -> Iterator[list[Tensor] | None]:
        """The model begins at its lowest adapter where what enters there was kept."""
        # DoRA adds to the weights in float32.
        frozen = frozen_matrices(self.classifier) if self.bf16 and self.recipe.method != "dora" else []
        with in_bfloat16(frozen):
            if self.task.reading.trunk is None:
                yield None
                return
            blocks = self.base.blocks_of(self.classifier.backbone)
            with start_at_block(blocks.parent, blocks.name, self.base.first) as given:
                yield given

    def _logits(self, batch: TokenBatch) -> Tensor:
        if self._vectors is not None:
            found: Tensor = self.classifier.head(self._vectors[to_device(batch.rows, self.device)])
            return found
        if self._given is not None and self.task.reading.trunk is not None:
            self._given[:] = [self.task.reading.trunk.take(batch)]
        logits: Tensor = self.classifier(*batch_tensors(batch, self.device))["logits"]
        return logits

    def _steps(self, rows: int) -> int:
        return max(1, -(-rows // self.recipe.batch_size))

    def _plan(self, repeat: TrainedModel | None) -> Schedule:
        """How many steps, after timing a few of them: a limit of time shortens the run and lays the learning rate's fall out anew."""
        rows = len(self.task.learn)
        per_epoch = self._steps(rows)
        if repeat:
            steps, horizon = max(1, round(repeat.passes * per_epoch)), max(1, round(repeat.of * per_epoch))
        else:
            steps = horizon = (self.recipe.epochs or default_epochs(rows)) * per_epoch
        each = ranks().agree(self._rehearse())
        # Every process makes the same plan: each has its own clock, and so its own idea of the time that is left.
        seconds = None if self.task.seconds is None else ranks().agree(self.task.seconds)
        if seconds is not None and (allowed := max(1, int(seconds / each))) < steps:
            # "Budgeted Training" (Li, Yumer & Ramanan 2020): within a fixed time a rate that falls to zero by its end does best.
            horizon, steps = max(1, round(horizon * allowed / steps)), allowed
        epochs = -(-steps // per_epoch)
        most, passes = "" if repeat else "up to ", f"{steps / per_epoch:.3g}"
        self.tell.say(
            f"training: {most}{passes} {'pass' if passes == '1' else 'passes'} over {rows:,} texts, {duration(each * per_epoch)} each, "
            f"{most}{duration(each * steps)} in all on {self.device}"
        )
        return Schedule(epochs, steps, horizon)

    def _rehearse(self) -> float:
        """Seconds of a step."""
        batches = self._batches(epoch=0)
        chosen = [batches[number] for number in np.linspace(0, len(batches) - 1, TIMED_STEPS).astype(int)]
        self.classifier.train()
        # A GPU loads what each new shape needs when it comes first.
        warm_up = chosen if self.device.type == "cuda" else chosen[:1]
        for number, rows in enumerate([*warm_up, *chosen]):
            if number == len(warm_up):
                start = self._clock()
            self._gradient(rows)
        self.classifier.zero_grad(set_to_none=True)
        return max((self._clock() - start) / len(chosen), 1e-6)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _batches(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng((self.recipe.seed, epoch))
        lengths = [len(self.task.reading.ids[row]) for row in self.task.learn]
        return [[int(self.task.learn[row]) for row in rows] for rows in length_sorted_batches(lengths, self.recipe.batch_size, generator)]

    def _gradient(self, rows: list[int]) -> Tensor:
        """Add the gradient of a batch's loss, or of this process's part of it; returns its mean loss times the weight of all its rows.

        The loss stays on the device: to read it would wait for all that was asked of a GPU.

        Where memory is too short for it, this and all later batches are computed in pieces, whose gradients add up to the same.
        """
        weights = self.task.examples.weights
        whole = float(weights[rows].sum())
        mine = ranks().share(rows)
        if not mine:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        while True:
            try:
                pieces = [self._add_gradient(mine[first :: self._pieces], whole) for first in range(min(self._pieces, len(mine)))]
            except (RuntimeError, MemoryError) as error:
                if self._pieces >= len(mine) or not is_out_of_memory(error):
                    raise
            else:
                return torch.stack(pieces).sum() * (whole * whole / float(weights[mine].sum()))
            self.classifier.zero_grad(set_to_none=True)
            self._pieces *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.tell.say(f"memory is too short for {len(mine)} rows at once: a batch is computed in {self._pieces} pieces, to one end")

    def _add_gradient(self, rows: list[int], whole: float) -> Tensor:
        """Add the gradient of some rows' losses over ``whole``, the weight of their batch; returns that sum."""
        reading, examples = self.task.reading, self.task.examples
        batch = reading.tokenizer.padded(reading.ids, rows)
        with autocast(self.bf16, self.device):
            logits = self._logits(batch)
        truth, weights = to_device(examples.classes[batch.rows], self.device), to_device(examples.weights[batch.rows], self.device)
        losses = self._losses(logits.float(), truth, batch.rows)
        loss = (losses * weights).sum() / whole
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss.detach().double()

    def _losses(self, logits: Tensor, truth: Tensor, rows: IntArray) -> Tensor:
        """Each row's loss *(rows,)*, beside a teacher where there is one; ``rows`` are the rows' numbers."""
        own: Tensor = self.losses(logits, truth.clamp(min=0))
        if self.task.targets is None:
            return own
        targets = to_device(self.task.targets[rows], self.device).float()
        return distillation_loss(own, truth != UNLABELED, logits + self.prior, targets)

    def _epoch(self, state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]) -> None:
        """The rest of an epoch, or of the plan."""
        self.classifier.train()
        stage = f"pass {state.epoch + 1} of {state.plan.epochs}"
        batches = self._batches(state.epoch)
        start = saved = time.perf_counter()
        before, took = state.seconds, 0.0
        losses: list[Tensor] = []
        for rows in batches[state.within : state.within + state.plan.steps - state.step]:
            torch.manual_seed(self.recipe.seed * 1_000_003 + state.step)
            losses.append(self._gradient(rows))
            if len(losses) >= LOSS_READ_STEPS[self.device.type]:
                self._count(losses, state, stage)
            ranks().add_gradients(self.learning.values())
            nn.utils.clip_grad_norm_(self.learning.values(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * learning_rate_factor(state.step, state.plan.horizon)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.within += 1
            state.weight += float(self.task.examples.weights[rows].sum())
            state.seconds = before + time.perf_counter() - start
            self.tell.advance(stage, min(state.within * self.recipe.batch_size, len(self.task.learn)), len(self.task.learn))
            if time.perf_counter() - saved > max(CHECKPOINT_SECONDS, took / MAX_CHECKPOINT_SHARE):
                saving = time.perf_counter()
                self._count(losses, state, stage)
                self._keep(state, optimizer, checkpoint, best)
                saved = time.perf_counter()
                took = saved - saving

        self._count(losses, state, stage)

    def _count(self, losses: list[Tensor], state: TrainingState, stage: str) -> None:
        """Add what the last steps lost to the epoch's sum, and empty the list.

        Raises:
            TrainingError: a loss is no finite number.
        """
        for loss in torch.stack(losses).tolist() if losses else ():
            if not np.isfinite(loss):
                raise TrainingError(f"training diverged: the loss is {loss} in {stage}; try a lower --lr than {self.lr:g}.")
            state.loss += loss
        losses.clear()

    def _look(self, state: TrainingState, best: dict[str, Tensor]) -> dict[str, Tensor]:
        """Close the epoch: what the validation rows say of it, and the weights to keep so far."""
        loss, accuracy = None, None
        task = self.task
        if len(task.held):
            stage = f"pass {state.epoch + 1} of {state.plan.epochs}: validation"
            logits = self.logits(task.held, stage)
            truth = task.examples.classes[task.held]
            losses = self._losses(to_device(logits, self.device), to_device(truth, self.device), task.held)
            # One process's number for all: they have to stop after the same pass.
            loss = ranks().agree(float(losses.mean()))
            accuracy = float((logits.argmax(1) == truth).mean())
        state.history.append(
            EpochScores(
                train_loss=state.loss / max(state.weight, 1e-9), validation_loss=loss, validation_accuracy=accuracy, seconds=state.seconds
            )
        )
        state.epoch, state.within, state.loss, state.weight, state.seconds = state.epoch + 1, 0, 0.0, 0.0, 0.0
        if loss is not None and state.best_loss is not None and loss >= state.best_loss:
            return best
        state.best_loss, state.best_step = loss, state.step
        return {name: parameter.detach().clone() for name, parameter in self.learning.items()}

    def logits(self, rows: IntArray, stage: str) -> FloatArray:
        """Logits *(rows, classes)* of texts of the task."""
        reading = self.task.reading
        return run_batches(
            self.classifier,
            reading.tokenizer,
            reading.ids,
            self._logits,
            self.bf16,
            lambda done: self.tell.advance(stage, done, len(rows)),
            rows,
        )

    @staticmethod
    def _worn_out(state: TrainingState) -> bool:
        losses = [epoch.validation_loss for epoch in state.history if epoch.validation_loss is not None]
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in self.learning.values() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.learning.values() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, fused=True)

    def _keep(self, state: TrainingState, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]) -> None:
        """Put everything that a step changes into the checkpoint, by name."""
        if not ranks().first:
            return
        kept = {f"now/{name}": parameter for name, parameter in self.learning.items()} | {f"best/{name}": best[name] for name in best}
        for name, parameter in self.learning.items():
            kept |= {f"adam/{key}/{name}": value for key, value in optimizer.state[parameter].items()}
        checkpoint.save(kept, {**asdict(state), "history": [epoch.model_dump() for epoch in state.history]})

    def _restore(self, kept: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Put back what `_keep` kept; returns the best weights so far."""
        with torch.no_grad():
            for name, parameter in self.learning.items():
                parameter.copy_(kept[f"now/{name}"])
                # A parameter that no gradient reached yet has no state.
                found = {key: kept[f"adam/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"adam/{key}/{name}" in kept}
                if found:
                    optimizer.state[parameter] = {key: value.to(self.device) for key, value in found.items()}
        return {name.removeprefix("best/"): value.to(self.device) for name, value in kept.items() if name.startswith("best/")}
