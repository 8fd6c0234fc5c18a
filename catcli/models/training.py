"""The loop: token ids and classes → a trained classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from catcli.config import Recipe
from catcli.data.dataset.examples import UNLABELED, Examples
from catcli.errors import TrainingError
from catcli.evaluation.calibration import class_shares
from catcli.evaluation.metrics import EpochScores
from catcli.models.backbones import Backbone
from catcli.models.checkpoint import Checkpoint
from catcli.models.classifier import Classifier, is_memory_short, parameters, pick_device, use_bf16
from catcli.models.losses import Targets, counted, distilled, log_prior, row_losses
from catcli.models.methods import learning_rate, prepare
from catcli.models.probe import fit_probe
from catcli.models.reading import Advance, Reading, infer, precision, tensors
from catcli.models.trunk import entered_at, on_device
from catcli.models.workers import workers
from catcli.runtime.blend import Array
from catcli.runtime.tokens import TokenBatch, Tokenizer

Rows = npt.NDArray[np.int64]

WARMUP = 0.06
"""Share of the steps in which the learning rate rises, as in RoBERTa's fine-tuning (Liu et al. 2019, appendix)."""

PATIENCE = 2
"""Epochs without a lower validation loss after which training stops."""

REHEARSAL = 3
"""Steps that are timed, without learning from them, to say how long the rest will take."""

LOSSES = {"cpu": 1, "cuda": 32}
"""Steps after which their losses are read: a GPU has to finish what it was asked for first, and then waits for the next step."""

KEEP_EVERY = 60.0
"""Seconds after which the state is kept within an epoch too."""

KEEP_SHARE = 0.05
"""Share of the time that keeping it may take: that of a base trained whole is sixteen bytes a parameter."""


@dataclass(frozen=True)
class Tell:
    """How a training speaks: ``advance`` with what is being done, how many rows of it, and of how many; ``say`` with a sentence."""

    advance: Advance = lambda *_: None
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Plan:
    """How far to train: ``steps`` in ``epochs``, the last of them perhaps in part; the learning rate falls to zero at step ``horizon``."""

    epochs: int
    steps: int
    horizon: int


@dataclass(frozen=True)
class Task:
    """What a training is given: the texts of a run, which of them it learns from, and which validation rows it looks at.

    ``learn`` and ``held`` are row numbers of ``examples``, whose texts are those of ``reading``; ``count`` is how many classes there are,
    ``seconds`` what the training may take, None without a limit. ``targets`` are what a teacher says of the examples; those that have no
    class but `UNLABELED` are learned from it alone.
    """

    reading: Reading
    examples: Examples
    learn: Rows
    held: Rows
    count: int
    seconds: float | None = None
    targets: Targets | None = None

    @property
    def labeled(self) -> Rows:
        """Those of the rows that are learned from that have a class."""
        found: Rows = self.learn[self.examples.classes[self.learn] != UNLABELED]
        return found

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Each class's share of the labeled rows that are learned from *(classes,)*."""
        return class_shares(self.examples.classes[self.labeled], self.examples.weights[self.labeled], self.count)


@dataclass(frozen=True)
class Trained:
    """A classifier with what it learned still beside the weights, what it was fed with, and what training took.

    ``passes`` says after how many passes over the rows it was best, ``of`` for how many its learning rate was laid out.
    """

    classifier: Classifier
    base: Backbone
    tokenizer: Tokenizer
    recipe: Recipe
    device: str
    epochs: tuple[EpochScores, ...]
    passes: float
    of: float
    trained_parameters: int
    total_parameters: int


def fitting_max_tokens(lengths: Sequence[int]) -> int:
    """So many tokens that 99 % of the texts are whole: a multiple of 8 from 16 to 128."""
    return int(np.clip(-(-np.quantile(lengths, 0.99) // 8) * 8, 16, 128))


def fitting_tokenizer(base: Backbone, texts: Sequence[str]) -> Tokenizer:
    """The base's tokenizer, cutting texts where `fitting_max_tokens` says."""
    lengths = [len(ids) for ids in Tokenizer(base.tokenizer, base.longest, base.pad_id).encode(texts)]
    return Tokenizer(base.tokenizer, min(fitting_max_tokens(lengths), base.longest), base.pad_id)


def default_epochs(rows: int) -> int:
    """At most so many passes: 8 over 500 rows, 4 over 2,000, 2 over 10,000 and more; early stop often ends sooner."""
    return int(np.clip(round(200 / np.sqrt(max(rows, 1))), 2, 8))


def train(task: Task, base: Backbone, recipe: Recipe, checkpoint: Checkpoint, tell: Tell, repeat: Trained | None = None) -> Trained:
    """Train a classifier on ``base`` as ``recipe`` says; the validation rows say after how many passes it was best.

    With ``repeat``, a training on fewer rows, as many passes are made as were best there. A training whose state ``checkpoint`` holds
    goes on from it.
    """
    device = pick_device(recipe.device)
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load("sdpa"), task.count, base.pool)
    prepare(classifier, base, recipe)
    taught = counted(task.examples.take(task.labeled), recipe.balance, task.shares)
    weight, bias = fit_probe(task.reading.vectors[task.labeled], taught, task.count)
    if recipe.balance == "logit-adjust":  # its loss adds what the categories' shares say; the probe has learned it
        bias -= np.log(task.shares).astype(np.float32)
    classifier.start_head(weight, bias)
    trainer = Trainer(classifier, base, recipe, task, device, tell)
    epochs, passes, of = trainer.train(checkpoint, repeat)
    return Trained(classifier, base, task.reading.tokenizer, recipe, str(device), tuple(epochs), passes, of, *parameters(classifier))


def logits_of(trained: Trained, task: Task, rows: Rows) -> Array:
    """Logits *(rows, classes)* of texts of ``task``, which ``trained`` is of."""
    trainer = Trainer(trained.classifier, trained.base, trained.recipe, task, pick_device(trained.recipe.device), Tell())
    return trainer.look(rows)


@dataclass
class State:
    """Where a training stands: what a checkpoint keeps beside the tensors."""

    plan: Plan
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
    def of(cls, progress: Mapping[str, Any]) -> State:
        """What a checkpoint kept of one."""
        plan, history = Plan(**progress["plan"]), [EpochScores(**epoch) for epoch in progress["history"]]
        return cls(**{**progress, "plan": plan, "history": history})


class Trainer:
    """Trains one classifier on one device. The order of rows and every draw follow the recipe's seed and the step alone."""

    def __init__(self, classifier: Classifier, base: Backbone, recipe: Recipe, task: Task, device: torch.device, tell: Tell) -> None:
        self.classifier = classifier.to(device)
        self.base = base
        self.recipe = recipe
        self.task = task
        self.device = device
        self.tell = tell
        self.bf16 = use_bf16(recipe.dtype, device)
        self.lr = recipe.lr or learning_rate(base, recipe.method)
        self.losses = row_losses(recipe.balance, task.shares, device)
        self.prior = log_prior(recipe.balance, task.shares, device)
        # A base that stays as it is gives the same vectors at every pass: they are read once, and the head alone is run.
        self._vectors = torch.from_numpy(task.reading.vectors).to(device) if recipe.method == "head" else None
        self._given: list[Tensor] | None = None
        self._pieces = 1
        self.learning = {name: parameter for name, parameter in classifier.named_parameters() if parameter.requires_grad}

    def train(self, checkpoint: Checkpoint, repeat: Trained | None) -> tuple[list[EpochScores], float, float]:
        """Train on the task's rows; after every epoch look at the validation rows, if any, and end with the weights they liked best.

        Returns the epochs, the passes over the rows that the best weights had seen, and those that the learning rate was laid out for.
        """
        with self._entered() as self._given:
            kept = checkpoint.load()
            state = State.of(kept[1]) if kept else State(self._plan(repeat))
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

    def look(self, rows: Rows) -> Array:
        """Logits *(rows, classes)* of texts of the task, outside of a training."""
        with self._entered() as self._given:
            return self.logits(rows, "scoring")

    @contextmanager
    def _entered(self) -> Iterator[list[Tensor] | None]:
        """The model begins at its lowest adapter where what enters there was kept."""
        # DoRA adds to the weights in float32.
        frozen = frozen_matrices(self.classifier) if self.bf16 and self.recipe.method != "dora" else []
        with rounded(frozen):
            if self.task.reading.trunk is None:
                yield None
                return
            blocks = self.base.blocks_of(self.classifier.backbone)
            with entered_at(blocks.parent, blocks.name, self.base.first) as given:
                yield given

    def _logits(self, batch: TokenBatch) -> Tensor:
        if self._vectors is not None:
            found: Tensor = self.classifier.head(self._vectors[on_device(batch.rows, self.device)])
            return found
        if self._given is not None and self.task.reading.trunk is not None:
            self._given[:] = [self.task.reading.trunk.take(batch)]
        logits: Tensor = self.classifier(*tensors(batch, self.device))["logits"]
        return logits

    def _steps(self, rows: int) -> int:
        return max(1, -(-rows // self.recipe.batch_size))

    def _plan(self, repeat: Trained | None) -> Plan:
        """How many steps, after timing a few of them: a limit of time shortens the run and lays the learning rate's fall out anew."""
        rows = len(self.task.learn)
        per_epoch = self._steps(rows)
        if repeat:
            steps, horizon = max(1, round(repeat.passes * per_epoch)), max(1, round(repeat.of * per_epoch))
        else:
            steps = horizon = (self.recipe.epochs or default_epochs(rows)) * per_epoch
        each = workers().agree(self._rehearse())
        # Every process makes the same plan: each has its own clock, and so its own idea of the time that is left.
        seconds = None if self.task.seconds is None else workers().agree(self.task.seconds)
        if seconds is not None and (allowed := max(1, int(seconds / each))) < steps:
            # "Budgeted Training" (Li, Yumer & Ramanan 2020): within a fixed time a rate that falls to zero by its end does best.
            horizon, steps = max(1, round(horizon * allowed / steps)), allowed
        epochs = -(-steps // per_epoch)
        most, passes = "" if repeat else "up to ", f"{steps / per_epoch:.3g}"
        self.tell.say(
            f"training: {most}{passes} {'pass' if passes == '1' else 'passes'} over {rows:,} texts, {duration(each * per_epoch)} each, "
            f"{most}{duration(each * steps)} in all on {self.device}"
        )
        return Plan(epochs, steps, horizon)

    def _rehearse(self) -> float:
        """Seconds of a step."""
        batches = self._batches(epoch=0)
        chosen = [batches[number] for number in np.linspace(0, len(batches) - 1, REHEARSAL).astype(int)]
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
        return [[int(self.task.learn[row]) for row in rows] for rows in batches_of_like_length(lengths, self.recipe.batch_size, generator)]

    def _gradient(self, rows: list[int]) -> Tensor:
        """Add the gradient of a batch's loss, or of this process's part of it; returns its mean loss times the weight of all its rows.

        The loss stays on the device: to read it would wait for all that was asked of a GPU.

        Where memory is too short for it, this and all later batches are computed in pieces, whose gradients add up to the same.
        """
        weights = self.task.examples.weights
        whole = float(weights[rows].sum())
        mine = workers().share(rows)
        if not mine:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        while True:
            try:
                pieces = [self._add_gradient(mine[first :: self._pieces], whole) for first in range(min(self._pieces, len(mine)))]
            except (RuntimeError, MemoryError) as error:
                if self._pieces >= len(mine) or not is_memory_short(error):
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
        with precision(self.bf16, self.device):
            logits = self._logits(batch)
        truth, weights = on_device(examples.classes[batch.rows], self.device), on_device(examples.weights[batch.rows], self.device)
        losses = self._losses(logits.float(), truth, batch.rows)
        loss = (losses * weights).sum() / whole
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss.detach().double()

    def _losses(self, logits: Tensor, truth: Tensor, rows: Rows) -> Tensor:
        """Each row's loss *(rows,)*, beside a teacher where there is one; ``rows`` are the rows' numbers."""
        own: Tensor = self.losses(logits, truth.clamp(min=0))
        if self.task.targets is None:
            return own
        targets = on_device(self.task.targets[rows], self.device).float()
        return distilled(own, truth != UNLABELED, logits + self.prior, targets)

    def _epoch(self, state: State, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]) -> None:
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
            if len(losses) >= LOSSES[self.device.type]:
                self._count(losses, state, stage)
            workers().add_gradients(self.learning.values())
            nn.utils.clip_grad_norm_(self.learning.values(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate(state.step, state.plan.horizon)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.within += 1
            state.weight += float(self.task.examples.weights[rows].sum())
            state.seconds = before + time.perf_counter() - start
            self.tell.advance(stage, min(state.within * self.recipe.batch_size, len(self.task.learn)), len(self.task.learn))
            if time.perf_counter() - saved > max(KEEP_EVERY, took / KEEP_SHARE):
                saving = time.perf_counter()
                self._count(losses, state, stage)
                self._keep(state, optimizer, checkpoint, best)
                saved = time.perf_counter()
                took = saved - saving

        self._count(losses, state, stage)

    def _count(self, losses: list[Tensor], state: State, stage: str) -> None:
        """Add what the last steps lost to the epoch's sum, and empty the list.

        Raises:
            TrainingError: a loss is no finite number.
        """
        for loss in torch.stack(losses).tolist() if losses else ():
            if not np.isfinite(loss):
                raise TrainingError(f"training diverged: the loss is {loss} in {stage}; try a lower --lr than {self.lr:g}.")
            state.loss += loss
        losses.clear()

    def _look(self, state: State, best: dict[str, Tensor]) -> dict[str, Tensor]:
        """Close the epoch: what the validation rows say of it, and the weights to keep so far."""
        loss, accuracy = None, None
        task = self.task
        if len(task.held):
            stage = f"pass {state.epoch + 1} of {state.plan.epochs}: validation"
            logits = self.logits(task.held, stage)
            truth = task.examples.classes[task.held]
            losses = self._losses(on_device(logits, self.device), on_device(truth, self.device), task.held)
            # One process's number for all: they have to stop after the same pass.
            loss = workers().agree(float(losses.mean()))
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

    def logits(self, rows: Rows, stage: str) -> Array:
        """Logits *(rows, classes)* of texts of the task."""
        reading = self.task.reading
        return infer(
            self.classifier,
            reading.tokenizer,
            reading.ids,
            self._logits,
            self.bf16,
            lambda done: self.tell.advance(stage, done, len(rows)),
            rows,
        )

    @staticmethod
    def _worn_out(state: State) -> bool:
        losses = [epoch.validation_loss for epoch in state.history if epoch.validation_loss is not None]
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in self.learning.values() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.learning.values() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, fused=True)

    def _keep(self, state: State, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, best: Mapping[str, Tensor]) -> None:
        """Put everything that a step changes into the checkpoint, by name."""
        if not workers().first:
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


def frozen_matrices(classifier: Classifier) -> list[nn.Parameter]:
    """The weights and biases of matrix products that stay as they are."""
    products = (module for module in classifier.modules() if isinstance(module, nn.Linear | Conv1D))
    return [parameter for module in products for parameter in module.parameters(recurse=False) if not parameter.requires_grad]


@contextmanager
def rounded(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """While open, parameters are in bfloat16: rounded once, and to the numbers to which autocast would round them at each use."""
    kept = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for parameter, data in zip(parameters, kept, strict=True):
            parameter.data = data


def rate(step: int, horizon: int) -> float:
    """The share of the highest learning rate at ``step``: it rises for `WARMUP` of ``horizon`` steps and falls to zero at its end."""
    rise = max(1, round(WARMUP * horizon))
    return min((step + 1) / rise, max(0.0, (horizon - step) / max(1, horizon - rise)))


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2.5 h``: as precise as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def batches_of_like_length(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Row numbers, ``size`` at a time: random, but sorted by length within a stretch of 50 batches, so that little is padding."""
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), 50 * size):
        stretch = sorted(order[start : start + 50 * size].tolist(), key=lengths.__getitem__)
        batches.extend(stretch[first : first + size] for first in range(0, len(stretch), size))
    for number in generator.permutation(len(batches)):
        yield batches[number]
