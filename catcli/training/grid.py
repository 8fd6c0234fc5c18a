"""Which fits ``catcli compare`` makes: every base with every method, balance and seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from catcli.config import BASE_OPTIONS, LORA_METHODS, LORA_OPTIONS, Flag, Method, Recipe
from catcli.errors import UsageError, did_you_mean

LINEAR = "linear"
"""Among the methods: the linear model by itself. It is part of every fit, and takes none of its own."""

DEFAULT_METHODS = ("lora", "full", "head", LINEAR)


@dataclass(frozen=True)
class GridRun:
    """One fit: the name of its folder, what tables call the model, which is the same for every seed, and what is trained."""

    name: str
    model: str
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """What is compared. An empty field takes what the recipe says, and of the methods `DEFAULT_METHODS`."""

    bases: Annotated[tuple[str, ...], Flag(metavar="NAME", names=("--base",))] = ()
    """A base, as in fit; repeat for several."""
    methods: Annotated[tuple[str, ...], Flag(metavar="METHOD", names=("--method",), default="lora, full, head, linear")] = ()
    """A method, as in fit, or linear; repeat for several."""
    balances: Annotated[tuple[str, ...], Flag(metavar="HOW", names=("--balance",))] = ()
    """A balance, as in fit; repeat for several."""
    seeds: Annotated[tuple[int, ...], Flag(metavar="N", names=("--seed",))] = ()
    """A seed of training; repeat for several, whose mean is reported."""

    @property
    def with_linear(self) -> bool:
        """Whether the linear model is compared as a model of its own."""
        return LINEAR in (self.methods or DEFAULT_METHODS)

    def runs(self, recipe: Recipe) -> list[GridRun]:
        """The fits to make.

        Raises:
            UsageError: a name is wrong, or there is nothing to fit.
        """
        known = [*get_args(Method), LINEAR]
        wanted_methods = self.methods or DEFAULT_METHODS
        for method in wanted_methods:
            if method not in known:
                raise UsageError(f"--method {method}: choose among {', '.join(known)}{did_you_mean(method, known)}.")
        methods = [method for method in dict.fromkeys(wanted_methods) if method != LINEAR]
        if not methods:
            raise UsageError("--method linear alone leaves nothing to compare it with; add another --method.")
        bases = dict.fromkeys(self.bases or (recipe.base,))
        balances = dict.fromkeys(self.balances or (recipe.balance,))
        seeds = dict.fromkeys(self.seeds or (recipe.seed,))
        runs = [_run(recipe, *settings) for settings in itertools.product(bases, methods, balances, seeds)]
        if len({run.name for run in runs}) < len(runs):
            raise UsageError("two of --base end in the same name; give one of them another folder.")
        return runs


def _run(recipe: Recipe, base: str, method: str, balance: str, seed: int) -> GridRun:
    settings = {"base": base, "method": method, "balance": balance, "seed": seed, "refit": False}
    model = [Path(base).name or "base", method, *([balance] if balance != "none" else [])]
    name = "-".join([*model, *([f"seed{seed}"] if seed else [])]).replace("@", "_")
    return GridRun(name, " ".join(model), recipe.without("folds", *_of_other_models(recipe, base, method)).but(settings))


def _of_other_models(recipe: Recipe, base: str, method: str) -> set[str]:
    """The options of ``recipe`` that suit its own base or method alone."""
    options = set()
    if base != recipe.base:
        options |= set(BASE_OPTIONS)
    if method != recipe.method:
        options |= {"lr", "method"}
    return options if method in LORA_METHODS else options | set(LORA_OPTIONS)
