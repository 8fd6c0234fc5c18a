"""What the trainings of one fit share: its rows as examples, the base, the recipe with every option resolved, the device and the time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from catcli.arrays import DoubleArray
from catcli.config import Recipe
from catcli.data.dataset.examples import Examples, category_name_examples
from catcli.data.dataset.labeled import LabeledRows
from catcli.data.dataset.prepare import MAX_UNSEEN_TEXTS, TrainingData
from catcli.data.dataset.split import Split
from catcli.errors import UsageError
from catcli.evaluation.calibration import class_shares
from catcli.logs import LOGGER, Advance, no_progress
from catcli.models.backbone import Backbone
from catcli.models.bases import MINILM, find_base
from catcli.models.device import pick_device
from catcli.models.methods import default_learning_rate
from catcli.training.schedule import choose_tokenizer, default_epochs
from catcli.training.teacher import Teacher
from catcli.training.time_budget import TimeBudget

SAMPLED_TEXTS = 20_000
"""Texts whose lengths decide how many tokens are read."""


@dataclass(frozen=True)
class Setup:
    """One fit: ``rows`` are all labeled rows as examples, ``names`` the categories' names as examples of their own.

    ``unlabeled`` are texts for a teacher to label, ``unseen_texts`` other ones without a category, which no model learns from.
    ``shares`` *(classes,)* is each class's share of the training rows. ``without_rows`` are categories of the taxonomy that no row has.
    """

    labeled: LabeledRows
    split: Split
    unlabeled: list[str]
    unseen_texts: list[str]
    recipe: Recipe
    base: Backbone
    device: torch.device
    rows: Examples
    names: Examples
    shares: DoubleArray
    teacher: Teacher | None
    budget: TimeBudget
    without_rows: tuple[str, ...] = ()
    advance: Advance = no_progress

    @property
    def class_count(self) -> int:
        """How many categories have rows: those that models are trained on."""
        return len(self.labeled.categories)

    @property
    def category_names(self) -> tuple[str, ...]:
        """All categories by class number: those with rows, then those of the taxonomy without."""
        return (*self.labeled.categories.names, *self.without_rows)

    @cached_property
    def texts_without_rows(self) -> list[str]:
        """What the categories without rows are known by."""
        return category_name_examples(self.without_rows).texts

    @classmethod
    def of(cls, data: TrainingData, started: float, advance: Advance = no_progress) -> Setup:
        """Load what ``data.recipe`` names and resolve its options; ``started`` is when the fit began, by `time.perf_counter`.

        Raises:
            CatcliError: the base or the teacher cannot be used.
        """
        labeled, split, recipe = data.labeled, data.split, data.recipe
        texts = data.unlabeled.texts if data.unlabeled else []
        unlabeled, unseen = (texts, []) if recipe.teacher else ([], texts)
        base = find_base(recipe.base)
        recipe = resolve_recipe(recipe, base, labeled, len(split.train) + len(unlabeled))
        if base is not MINILM or recipe.method != "lora":
            at = f" at {base.revision}" if base.revision else ""
            LOGGER.info(f"base: {base.hub}{at}; method: {recipe.method}")
        rows, names = Examples.of(labeled.texts, labeled.classes), category_name_examples(labeled.categories.names)
        train = rows.take(split.train).plus(names)
        teacher = Teacher(recipe.teacher, labeled.categories.names, recipe.device) if recipe.teacher else None
        if teacher:
            teacher.warn_of_leaks(labeled, split)
        return cls(
            labeled=labeled,
            split=split,
            unlabeled=unlabeled,
            unseen_texts=list(dict.fromkeys([*labeled.unlabeled_texts, *unseen]))[:MAX_UNSEEN_TEXTS],
            recipe=recipe,
            base=base.used_by(recipe),
            device=pick_device(recipe.device),
            rows=rows,
            names=names,
            shares=class_shares(train.classes, train.weights, len(labeled.categories)),
            teacher=teacher,
            budget=TimeBudget(recipe.time_budget, started, len(split.held_out)),
            without_rows=data.without_rows,
            advance=advance,
        )

    @property
    def held_out_texts(self) -> list[str]:
        """The texts of `Split.held_out`."""
        return [self.labeled.texts[row] for row in self.split.held_out]


def resolve_recipe(recipe: Recipe, base: Backbone, labeled: LabeledRows, training_rows: int) -> Recipe:
    """The recipe with the options that depend on the base and on the number of rows; a base on the hub with its commit.

    Raises:
        UsageError: more tokens are wanted than the base has positions for.
    """
    if recipe.max_tokens and recipe.max_tokens > base.longest:
        raise UsageError(f"--max-tokens {recipe.max_tokens}: {base.hub} has positions for {base.longest:,}; choose at most that many.")
    sample = labeled.texts[:: max(1, len(labeled.texts) // SAMPLED_TEXTS)]
    return recipe.but(
        {
            "base": base.name,
            "pool": recipe.pool or base.pool,
            "lr": recipe.lr or default_learning_rate(base, recipe.method),
            "epochs": recipe.epochs or default_epochs(training_rows),
            "max_tokens": recipe.max_tokens or choose_tokenizer(base, sample).max_tokens,
        }
    )
