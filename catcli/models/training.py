"""The loop: token ids and classes → a trained classifier."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from catcli.errors import TrainingError
from catcli.models.backbones import BACKBONES
from catcli.models.classifier import Classifier, parameters, pick_device
from catcli.models.lora import add_adapters
from catcli.recipe import Recipe
from catcli.runtime.tokens import TokenBatch, Tokenizer

Ids = Sequence[Sequence[int]]
Classes = npt.NDArray[np.int64]

WARMUP = 0.06
"""Share of the steps in which the learning rate rises, as in RoBERTa's fine-tuning (Liu et al. 2019, appendix)."""

PATIENCE = 2
"""Epochs without a lower validation loss after which training stops."""

PROBE_C = 0.1
"""Inverse strength of the L2 penalty on the probe."""

INFERENCE_BUDGET = 4096
"""Tokens of a batch where no gradient is kept."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; losses in nats."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


Advance = Callable[[str, float, float], None]
"""Called with what is being done, how many rows of it are done, and how many there are."""


@dataclass(frozen=True)
class Trained:
    """A classifier with its adapter still beside the weights, what it was fed with, and what training took."""

    classifier: Classifier
    tokenizer: Tokenizer
    recipe: Recipe
    device: str
    epochs: tuple[Epoch, ...]
    trained_parameters: int
    total_parameters: int


def train_lora(
    texts: Sequence[str], classes: Classes, count: int, held: Sequence[str], held_classes: Classes, recipe: Recipe, advance: Advance
) -> Trained:
    """Train LoRA and a head for ``count`` classes on ``texts``; the validation rows ``held`` say which epoch was best.

    The recipe comes back with its open options resolved.
    """
    base = BACKBONES[recipe.base]
    device = pick_device(recipe.device)
    lengths = [len(ids) for ids in Tokenizer(base.tokenizer, base.longest, base.pad_id).encode(texts)]
    recipe = recipe.but(
        {"max_tokens": recipe.max_tokens or fitting_max_tokens(lengths), "epochs": recipe.epochs or default_epochs(len(texts))}
    )
    tokenizer = Tokenizer(base.tokenizer, recipe.max_tokens or base.longest, base.pad_id)
    torch.manual_seed(recipe.seed)
    classifier = Classifier(base.load(), count)
    add_adapters(classifier, base, recipe)
    trainer = Trainer(classifier, tokenizer, recipe, device, advance)
    ids = tokenizer.encode(texts)
    trainer.start_head(ids, classes)
    epochs = trainer.train(ids, classes, tokenizer.encode(held), held_classes)
    return Trained(classifier, tokenizer, recipe, str(device), tuple(epochs), *parameters(classifier))


def fitting_max_tokens(lengths: Sequence[int]) -> int:
    """So many tokens that 99 % of the texts are whole: a multiple of 8 from 16 to 128."""
    return int(np.clip(-(-np.quantile(lengths, 0.99) // 8) * 8, 16, 128))


def default_epochs(rows: int) -> int:
    """At most so many: a budget of about 8,000 rows seen, at least 2 passes and at most 6; early stop often ends sooner."""
    return int(np.clip(round(8_000 / max(rows, 1)), 2, 6))


class Trainer:
    """Trains one classifier on one device; the order of rows follows the recipe's seed alone."""

    def __init__(self, classifier: Classifier, tokenizer: Tokenizer, recipe: Recipe, device: torch.device, advance: Advance) -> None:
        self.classifier = classifier.to(device)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.device = device
        self.advance = advance

    def logits(self, ids: Ids, stage: str = "logits") -> npt.NDArray[np.float32]:
        """Logits *(rows, classes)* of every text."""
        return self._infer(ids, lambda ids, mask: self.classifier(ids, mask)["logits"], stage)

    def start_head(self, ids: Ids, classes: Classes) -> None:
        """Start the head as the logistic regression on the untouched backbone's vectors.

        A random head's first gradients distort what the backbone knows; a fitted one leaves it in place (LP-FT: Kumar et al. 2022,
        "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
        """
        vectors = self._infer(ids, self.classifier.pooled, "probing the base model")
        probe = LogisticRegression(C=PROBE_C, max_iter=300).fit(vectors, classes)
        weight, bias = probe.coef_, probe.intercept_
        if len(probe.classes_) == 2:  # scikit-learn gives one row for two classes: the log-odds of the second
            weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
        head = self.classifier.head
        with torch.no_grad():
            head.weight.zero_()
            # A category without training rows keeps the lowest bias: possible, never favored.
            head.bias.fill_(float(bias.min()) - 1.0)
            seen = torch.as_tensor(probe.classes_, device=self.device)
            head.weight[seen] = torch.as_tensor(weight, dtype=head.weight.dtype, device=self.device)
            head.bias[seen] = torch.as_tensor(bias, dtype=head.bias.dtype, device=self.device)

    def train(self, ids: Ids, classes: Classes, held: Ids, held_classes: Classes) -> list[Epoch]:
        """Train on ``ids``; after every epoch look at the validation rows ``held``, and end with the weights of the best epoch."""
        generator = np.random.default_rng(self.recipe.seed)
        torch.manual_seed(self.recipe.seed)
        epochs = self.recipe.epochs or default_epochs(len(ids))
        steps = epochs * -(-len(ids) // self.recipe.batch_size)
        optimizer, schedule = self._optimizer(steps)
        history: list[Epoch] = []
        best, kept = np.inf, None
        for epoch in range(epochs):
            start = time.perf_counter()
            loss = self._epoch(ids, classes, generator, optimizer, schedule, f"epoch {epoch + 1} of {epochs}")
            logits = self.logits(held, f"epoch {epoch + 1} of {epochs}: validation")
            held_loss = float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(held_classes)))
            accuracy = float((logits.argmax(1) == held_classes).mean())
            history.append(Epoch(loss, held_loss, accuracy, time.perf_counter() - start))
            if held_loss < best:
                best, kept = held_loss, self._trained()
            elif len(history) - 1 - int(np.argmin([past.validation_loss for past in history])) >= PATIENCE:
                break
        if kept is not None:
            self.classifier.load_state_dict(kept, strict=False)
        return history

    def _trained(self) -> dict[str, torch.Tensor]:
        names = {name for name, parameter in self.classifier.named_parameters() if parameter.requires_grad}
        return {name: copy.deepcopy(value) for name, value in self.classifier.state_dict().items() if name in names}

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        parameters = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr)
        rise = max(1, round(WARMUP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))
        )
        return optimizer, schedule

    def _epoch(
        self,
        ids: Ids,
        classes: Classes,
        generator: np.random.Generator,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        stage: str,
    ) -> float:
        self.classifier.train()
        total, done = 0.0, 0
        for rows in batches_of_like_length([len(row) for row in ids], self.recipe.batch_size, generator):
            batch = self.tokenizer.padded(ids, rows)
            truth = torch.as_tensor(classes[batch.rows], device=self.device)
            logits = self.classifier(*self._tensors(batch))["logits"]
            loss = nn.functional.cross_entropy(logits, truth)
            if not torch.isfinite(loss):
                raise TrainingError(f"training diverged: the loss is {loss.item()} in {stage}; try a lower --lr than {self.recipe.lr:g}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            nn.utils.clip_grad_norm_(self.classifier.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
            done += len(rows)
            self.advance(stage, done, len(ids))
        return total / max(done, 1)

    def _infer(self, ids: Ids, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], stage: str) -> npt.NDArray[np.float32]:
        self.classifier.eval()
        out: npt.NDArray[np.float32] | None = None
        done = 0
        with torch.inference_mode():
            for batch in self.tokenizer.batches(ids, INFERENCE_BUDGET):
                values = function(*self._tensors(batch)).float().cpu().numpy()
                if out is None:
                    out = np.empty((len(ids), values.shape[1]), dtype=np.float32)
                out[batch.rows] = values
                done += len(batch.rows)
                self.advance(stage, done, len(ids))
        if out is None:
            return np.empty((0, self.classifier.head.out_features), dtype=np.float32)
        return out

    def _tensors(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(batch.ids).to(self.device), torch.from_numpy(batch.mask).to(self.device)


def batches_of_like_length(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Row numbers, ``size`` at a time: random, but sorted by length within a stretch of 50 batches, so that little is padding."""
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), 50 * size):
        stretch = sorted(order[start : start + 50 * size].tolist(), key=lengths.__getitem__)
        batches.extend(stretch[first : first + size] for first in range(0, len(stretch), size))
    for number in generator.permutation(len(batches)):
        yield batches[number]
