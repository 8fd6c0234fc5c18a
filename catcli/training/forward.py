"""An encoder in training: logits, losses and gradients of batches of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from catcli.arrays import FloatArray, IntArray
from catcli.config import Recipe
from catcli.data.dataset.examples import UNLABELED
from catcli.export.torch_inference import autocast, batch_tensors, run_batches, to_device
from catcli.inference.tokens import TokenBatch
from catcli.logs import LOGGER, Advance, no_progress
from catcli.models.backbone import Backbone
from catcli.models.classifier import Classifier
from catcli.models.device import is_out_of_memory, use_bf16
from catcli.models.losses import distillation_loss, log_prior, make_row_loss
from catcli.training.distributed import own_rows
from catcli.training.feature_cache import start_at_block
from catcli.training.precision import frozen_matrices, in_bfloat16
from catcli.training.task import TrainingTask


class Forward:
    """Computes logits, losses and gradients of one classifier on one device."""

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
        self.classifier = classifier.to(device)
        self.base, self.recipe, self.task, self.device = base, recipe, task, device
        self.bf16 = use_bf16(recipe.dtype, device)
        self._advance, self._log = advance, log
        self._row_loss = make_row_loss(recipe.balance, task.shares, device)
        self._prior = log_prior(recipe.balance, task.shares, device)
        # A frozen base gives the same vectors at every pass: they were computed once, and the head alone is run.
        self._vectors = torch.from_numpy(task.features.vectors).to(device) if recipe.method == "head" else None
        self._block_input: list[Tensor] | None = None
        self._micro_batches = 1

    @contextmanager
    def ready(self) -> Iterator[None]:
        """While open, the model begins at its lowest adapter where what enters there is cached, and frozen weights are in bfloat16."""
        # DoRA adds to the weights in float32.
        frozen = frozen_matrices(self.classifier) if self.bf16 and self.recipe.method != "dora" else []
        with in_bfloat16(frozen):
            if self.task.features.cache is None:
                yield
                return
            blocks = self.base.blocks_of(self.classifier.backbone)
            with start_at_block(blocks.parent, blocks.name, self.base.first) as self._block_input:
                yield

    def batch_logits(self, batch: TokenBatch) -> Tensor:
        """Logits *(rows, classes)* of a batch."""
        if self._vectors is not None:
            cached_logits: Tensor = self.classifier.head(self._vectors[to_device(batch.rows, self.device)])
            return cached_logits
        if self._block_input is not None and self.task.features.cache is not None:
            self._block_input[:] = [self.task.features.cache.take(batch)]
        logits: Tensor = self.classifier(*batch_tensors(batch, self.device))["logits"]
        return logits

    def logits(self, rows: IntArray, stage: str) -> FloatArray:
        """Logits *(rows, classes)* of texts of the task; call it within `ready`."""
        features = self.task.features
        return run_batches(
            self.classifier,
            features.tokenizer,
            features.ids,
            self.batch_logits,
            self.bf16,
            lambda done: self._advance(stage, done, len(rows)),
            rows,
        )

    def row_losses(self, logits: Tensor, truth: Tensor, rows: IntArray) -> Tensor:
        """Each row's loss *(rows,)*, beside a teacher where there is one; ``rows`` are the rows' numbers."""
        losses: Tensor = self._row_loss(logits, truth.clamp(min=0))
        if self.task.targets is None:
            return losses
        targets = to_device(self.task.targets[rows], self.device).float()
        return distillation_loss(losses, truth != UNLABELED, logits + self._prior, targets)

    def add_gradient(self, rows: list[int]) -> Tensor:
        """Add the gradient of a batch's loss, or of this process's part of it; returns its mean loss times the weight of all its rows.

        The loss stays on the device: reading it would wait for all operations that a GPU has queued. Where memory is too short, this and
        all later batches are divided into micro-batches, whose gradients add up to the same (gradient accumulation).
        """
        weights = self.task.examples.weights
        batch_weight = float(weights[rows].sum())
        rank_rows = own_rows(rows)
        if not rank_rows:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        while True:
            try:
                losses = [
                    self._add_micro_batch(rank_rows[first :: self._micro_batches], batch_weight)
                    for first in range(min(self._micro_batches, len(rank_rows)))
                ]
            except (RuntimeError, MemoryError) as error:
                if self._micro_batches >= len(rank_rows) or not is_out_of_memory(error):
                    raise
            else:
                return torch.stack(losses).sum() * (batch_weight * batch_weight / float(weights[rank_rows].sum()))
            self.classifier.zero_grad(set_to_none=True)
            self._micro_batches *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._log(
                f"memory is too short for {len(rank_rows)} rows at once: gradient accumulation over {self._micro_batches} micro-batches"
            )

    def _add_micro_batch(self, rows: list[int], batch_weight: float) -> Tensor:
        """Add the gradient of some rows' losses over ``batch_weight``, the weight of their batch; returns that sum."""
        features, examples = self.task.features, self.task.examples
        batch = features.tokenizer.padded(features.ids, rows)
        with autocast(self.bf16, self.device):
            logits = self.batch_logits(batch)
        truth, weights = to_device(examples.classes[batch.rows], self.device), to_device(examples.weights[batch.rows], self.device)
        losses = self.row_losses(logits.float(), truth, batch.rows)
        loss = (losses * weights).sum() / batch_weight
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss.detach().double()
