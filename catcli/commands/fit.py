"""``catcli fit``: labeled products → an adapter."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from catcli import adapter as adapters
from catcli.commands.talk import Talk
from catcli.errors import ProductsError, listed
from catcli.evaluation.heldout import HeldOut
from catcli.evaluation.metrics import EpochScores, Metrics, Rows, Training
from catcli.products.categories import Categories, is_label, look_alikes
from catcli.products.columns import Columns, choose
from catcli.products.read import open_source
from catcli.products.split import FEWEST, Split, split, text_key
from catcli.products.text import cells_of, compose
from catcli.recipe import Recipe
from catcli.reporting import card, tables
from catcli.runtime.blend import Array
from catcli.runtime.labeler import PROBE_ROWS, save_probe

if TYPE_CHECKING:
    from catcli.evaluation.calibration import Blending
    from catcli.models.export import Exported
    from catcli.models.training import Trained


@dataclass(frozen=True)
class Fitted:
    """What a fit came to: the adapter, and what was measured on its held-out rows."""

    adapter: adapters.Adapter
    metrics: Metrics


@dataclass(frozen=True)
class Products:
    """Labeled rows, ready to learn from: one text and one class number each."""

    texts: list[str]
    classes: npt.NDArray[np.int64]
    keys: list[str]
    categories: Categories
    read: int
    unlabeled: int


def fit(
    products: Sequence[str],
    *,
    recipe: Recipe,
    output: Path | None = None,
    force: bool = False,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    as_json: bool = False,
    talk: Talk | None = None,
) -> Fitted:
    """Train on ``products`` as ``recipe`` says and write the adapter to ``output``.

    Raises:
        CatcliError: something that the user can mend; nothing was written.
    """
    talk = talk or Talk.silent()
    source = open_source(products, input_format=input_format, delimiter=delimiter, encoding=encoding)
    target = output or adapters.store() / source.stem
    adapters.check_free(target, force)

    whole = source.read()
    frame = whole.frame
    if not len(frame):
        raise ProductsError(f"{source.name} has columns ({listed(frame.columns)}) and no rows; give a file with labeled rows.")
    if whole.short:
        talk.warn(f"{whole.short:,} rows of {source.name} have fewer cells than the header; the missing ones are taken as empty.")
    columns = choose(frame, recipe.label, recipe.text, recipe.group, source.name)
    _say_columns(talk, columns)
    labeled = _labeled(frame, columns, source.name, talk)
    parts = _split(labeled, recipe, talk)
    recipe = recipe.but({"label": columns.label, "text": columns.text, "group": columns.group})
    fitted = _train_and_write(labeled, parts, columns, recipe, target, talk)
    _show(fitted, as_json, talk)
    return fitted


def _say_columns(talk: Talk, columns: Columns) -> None:
    group = f", group {columns.group!r}" if columns.group else ""
    talk.say(f"columns: label {columns.label!r}, text {listed(columns.text)}{group}")
    for name, reason in columns.left_out.items():
        talk.warn(f"{name!r}: {reason}." if name in columns.text else f"{name!r} is left out: {reason}.")


def _labeled(frame: pl.DataFrame, columns: Columns, where: str, talk: Talk) -> Products:
    rows = frame.filter(is_label(cells_of(frame, columns.label)))
    unlabeled = len(frame) - len(rows)
    if not len(rows):
        raise ProductsError(f"{where} has {len(frame)} rows and none with a category in {columns.label!r}; choose another with --label.")
    labels = cells_of(rows, columns.label).cast(pl.String).to_list()
    categories = Categories.of(labels)
    if len(categories) < 2:
        raise ProductsError(
            f"all {len(rows)} labeled rows of {where} are of one category, {categories.names[0]!r}; at least two are needed to tell apart: "
            "choose another column with --label or add rows."
        )
    texts = compose(rows, columns.text)
    blank = sum(not text for text in texts)
    if blank == len(texts):
        raise ProductsError(f"the text columns {listed(columns.text)} of {where} are empty in every row; choose others with --text.")
    talk.say(f"{len(frame):,} rows read, {len(rows):,} labeled with {len(categories):,} categories")
    if unlabeled:
        talk.warn(f"{unlabeled:,} rows have no category and are left out.")
    if blank:
        talk.warn(f"{blank:,} rows have no text.")
    for alike in look_alikes(categories.names)[:5]:
        talk.warn(f"the categories {listed(alike)} differ only by case or blanks; they are learned as different ones.")
    keys = [text_key(text) for text in texts]
    if columns.group:
        named = cells_of(rows, columns.group).cast(pl.String).to_list()
        keys = [f"group {name}" if name is not None else key for name, key in zip(named, keys, strict=True)]
    return Products(texts, categories.numbers(labels), keys, categories, len(frame), unlabeled)


def _split(labeled: Products, recipe: Recipe, talk: Talk) -> Split:
    parts = split(labeled.keys, labeled.classes, recipe.split, recipe.split_seed)
    if not len(parts.test) or not len(parts.validation):
        raise ProductsError(
            f"{len(labeled.texts)} rows are too few to keep any back for scoring: no category has {FEWEST} different products; "
            "add labeled rows."
        )
    if len(np.unique(labeled.classes[parts.train])) < 2:
        raise ProductsError("the training part holds one category only; add labeled rows, or give training a larger share with --split.")
    talk.say(f"split by product: {len(parts.train):,} rows train, {len(parts.validation):,} choose, {len(parts.test):,} score")
    if parts.rare:
        names = [labeled.categories.names[number] for number in parts.rare]
        talk.warn(f"{len(names)} categories have fewer than {FEWEST} products and are learned but not scored: {listed(names, 3)}.")
    if len(parts.test) < 50:
        talk.warn(f"only {len(parts.test)} rows score the result; expect the figures to move by several points with more rows.")
    return parts


def _train_and_write(labeled: Products, parts: Split, columns: Columns, recipe: Recipe, target: Path, talk: Talk) -> Fitted:
    # torch, transformers and scikit-learn take seconds to import: only once the rows are known to be good.
    from catcli.evaluation.calibration import Blending
    from catcli.models.export import export_variants
    from catcli.models.linear import fit_linear
    from catcli.models.training import train_lora

    texts, classes, count = labeled.texts, labeled.classes, len(labeled.categories)
    train_texts = [texts[row] for row in parts.train]
    held = [texts[row] for row in np.concatenate((parts.validation, parts.test))]
    validation = slice(0, len(parts.validation))
    with talk.progress() as advance, adapters.drafted(target) as draft:
        watch = _Watch()
        lora = train_lora(train_texts, classes[parts.train], count, held[validation], classes[parts.validation], recipe, advance)
        watch.lap("lora")
        advance("fitting the linear model", 0, 1)
        linear = fit_linear(train_texts, classes[parts.train], count, recipe.seed)
        watch.lap("linear")
        exported = export_variants(lora, held, draft.folder, advance)
        spoken = linear.logits(held)
        by_validation = {variant: logits[validation] for variant, logits in exported.logits.items()}
        blending = Blending.fit(by_validation, spoken[validation], classes[parts.validation])
        metrics = _measure(labeled, parts, lora, exported, spoken, blending, watch)
        linear.save(draft.folder / "linear.safetensors")
        _write_rest(draft, labeled, parts, columns, lora, exported, spoken, blending, metrics, target.name)
    return Fitted(adapters.load(target), metrics)


class _Watch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.start = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start


def _measure(
    labeled: Products, parts: Split, lora: Trained, exported: Exported, spoken: Array, blending: Blending, watch: _Watch
) -> Metrics:
    from catcli.evaluation.scores import evaluate

    names, test = labeled.categories.names, slice(len(parts.validation), None)
    serving, truth = exported.logits[exported.serves][test], labeled.classes[parts.test]
    return Metrics(
        rows=Rows(
            read=labeled.read,
            unlabeled=labeled.unlabeled,
            train=len(parts.train),
            validation=len(parts.validation),
            test=len(parts.test),
        ),
        rare_categories=tuple(names[number] for number in parts.rare),
        variant=exported.serves,
        blend=evaluate(blending.scores(serving, spoken[test], exported.serves), truth, names),
        lora=evaluate(np.float32(blending.lora_alone) * serving, truth, names),
        linear=evaluate(np.float32(blending.linear_alone) * spoken[test], truth, names),
        parity=exported.parity,
        int8=exported.int8,
        training=Training(
            device=lora.device,
            epochs=tuple(EpochScores(**vars(epoch)) for epoch in lora.epochs),
            lora_seconds=watch.laps["lora"],
            linear_seconds=watch.laps["linear"],
            seconds=watch.total,
            trained=lora.trained_parameters,
            total=lora.total_parameters,
        ),
    )


def _write_rest(
    draft: adapters.Draft,
    labeled: Products,
    parts: Split,
    columns: Columns,
    lora: Trained,
    exported: Exported,
    spoken: Array,
    blending: Blending,
    metrics: Metrics,
    name: str,
) -> None:
    """Everything of the folder but the models: what `predict` and `report` read beside them."""
    from catcli.models.backbones import BACKBONES

    base = BACKBONES[lora.recipe.base]
    rows = np.concatenate((parts.validation, parts.test))
    variants = {
        variant: adapters.Served(file=exported.files[variant], temperature=blending.temperatures[variant]) for variant in exported.logits
    }
    draft.manifest = adapters.Manifest(
        format=adapters.FORMAT,
        created=adapters.now(),
        base=adapters.Base(name=base.name, hub=base.hub, sha256=base.sha256),
        method=lora.recipe.method,
        label=columns.label,
        text=columns.text,
        group=columns.group,
        categories=labeled.categories.names,
        max_tokens=lora.tokenizer.max_tokens,
        pad_id=base.pad_id,
        blend=adapters.Blend(lora=blending.lora, linear=blending.linear),
        variants=variants,
        files={},
        versions=adapters.versions(),
    )
    heldout = HeldOut(
        texts=[labeled.texts[row] for row in rows],
        parts=["validation"] * len(parts.validation) + ["test"] * len(parts.test),
        classes=labeled.classes[rows],
        lora=exported.logits[exported.serves],
        linear=spoken,
    )
    heldout.save(draft.folder / "heldout.parquet", labeled.categories.names)
    save_probe(draft.folder / "probe.parquet", heldout.texts[:PROBE_ROWS], exported.probe)
    shutil.copyfile(base.tokenizer, draft.folder / "tokenizer.json")
    (draft.folder / "recipe.json").write_text(lora.recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (draft.folder / "metrics.json").write_text(metrics.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (draft.folder / "README.md").write_text(card.model_card(name, draft.manifest, metrics, lora.recipe), encoding="utf-8")


def _show(fitted: Fitted, as_json: bool, talk: Talk) -> None:
    metrics, adapter = fitted.metrics, fitted.adapter
    line = f"catcli predict catalog.parquet -o labeled.parquet --adapter {shlex.quote(str(adapter.folder))}"
    if as_json:
        print(json.dumps({"adapter": str(adapter.folder), "predict": line, "metrics": metrics.model_dump(mode="json")}))
        return
    talk.out.print(tables.parity(metrics))
    talk.say(f"int8 {metrics.int8.reason}")
    talk.out.print(tables.overall(metrics))
    talk.say(f"trained in {metrics.training.seconds:.0f} s on {metrics.training.device}")
    talk.out.print(f"adapter: {adapter.folder}", soft_wrap=True)
    talk.out.print(f"next:    {line}", soft_wrap=True)
