"""Backbone + pooling + linear head: one shape for every backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from catcli.config import Pool


class Classifier(nn.Module):
    """Token ids and their mask → logits *(rows, classes)*.

    Not the architecture's own classification class: those differ in where they pool and what stands before the last layer. One shape means
    that training, merging and export are the same lines for every backbone.
    """

    def __init__(self, backbone: PreTrainedModel, classes: int, pool: Pool = "mean") -> None:
        super().__init__()
        self.backbone: PreTrainedModel | PeftModel = backbone
        self.pool = pool
        self.head = nn.Linear(backbone.config.hidden_size, classes)
        # Of PiSSA, whose adapters do not begin as zeros: what they began as, by name, on the CPU.
        self.initial_adapters: dict[str, Tensor] | None = None

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration; the exporter asks for it."""
        return self.backbone.config

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector of each row's token states *(rows, hidden)*: their mean under the mask, the first, or the last under the mask."""
        states: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pool == "cls":
            return states[:, 0]
        if self.pool == "last":
            last = (attention_mask.sum(1) - 1).clamp(min=0)
            return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled: Tensor = (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return pooled

    def start_head(self, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> None:
        """Begin with a head *(classes, hidden)*, *(classes,)* that was fitted elsewhere."""
        self.head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})

    def add_classes(self, weight: npt.NDArray[np.float32]) -> None:
        """Give the head classes of these weights *(new classes, hidden)* after those it has, with a bias of 0."""
        head = self.head
        self.head = nn.Linear(head.in_features, head.out_features + len(weight)).to(head.weight.device)
        with torch.no_grad():
            self.head.weight.copy_(torch.cat((head.weight, to_tensor(weight, head.weight))))
            self.head.bias.copy_(torch.cat((head.bias, torch.zeros(len(weight), device=head.bias.device))))

    def add_to_bias(self, offset: npt.NDArray[np.float32]) -> None:
        """Add to the head's bias *(classes,)*."""
        with torch.no_grad():
            self.head.bias.add_(to_tensor(offset, self.head.bias))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Logits *(rows, classes)* of ids and mask *(rows, tokens)*, under the name that the exporter gives its output."""
        return {"logits": self.head(self.pooled(input_ids, attention_mask))}


def to_tensor(array: npt.NDArray[np.float32], like: Tensor) -> Tensor:
    """A tensor where ``like`` is, of its type."""
    return torch.from_numpy(array).to(like.device, like.dtype)


def save_head(head: nn.Linear, file: Path) -> None:
    """Weight *(classes, hidden)* and bias *(classes,)* as safetensors: PEFT saves only heads that it knows, and this is none of them."""
    save_file({"weight": head.weight.detach().cpu().contiguous(), "bias": head.bias.detach().cpu().contiguous()}, file)


def load_head(head: nn.Linear, file: Path) -> None:
    """Put what `save_head` wrote into ``head``."""
    head.load_state_dict(load_file(file))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
