"""``catcli fit``: labeled products → an adapter."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Flags, Json, Products, RecipeName, Require
from catcli.config import Recipe
from catcli.data.io.input_options import InputOptions
from catcli.logs import no_progress

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.training.fit import FitResult

FIT_FLAGS = tuple(name for name in Recipe.model_fields if name != "about")


@app.command(
    epilog=examples(
        "catcli fit products.csv",
        "catcli fit offers.csv --label 'Category Label' --text 'Product Title' --group 'Cluster ID'",
        "catcli fit 'exports/*.parquet' -o adapters/shop --force --epochs 3",
    )
)
@command
def fit(
    products: Products,
    given: Annotated[Mapping[str, object], Flags(Recipe, FIT_FLAGS, given=True)],
    options: Annotated[InputOptions, Flags(InputOptions)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The adapter's folder; adapters/<name of the first file> by default.", metavar="FOLDER"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Say so if there is no stopped fit to continue; one is continued without this option, too.")
    ] = False,
    recipe: RecipeName = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that exists.")] = False,
    require: Require = None,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """Labeled products → an adapter: trained, merged, exported to ONNX, scored on rows it was not trained on."""
    run_fit(
        products,
        recipe=Recipe.start(recipe, given),
        output=output,
        force=force,
        options=options,
        resume=resume,
        require=tuple(require or ()),
        as_json=as_json,
        console=console,
    )


def run_fit(
    products: Sequence[str],
    *,
    recipe: Recipe,
    output: Path | None = None,
    force: bool = False,
    options: InputOptions | None = None,
    resume: bool = False,
    require: Sequence[str] = (),
    as_json: bool = False,
    console: Console,
) -> FitResult:
    """Fit, and show what it came to; see `catcli.training.fit.fit`."""
    from catcli.reporting import tables
    from catcli.reporting.model_card import model_card
    from catcli.training.fit import IS_HELPER
    from catcli.training.fit import fit as fit_adapter

    with nullcontext(no_progress) if IS_HELPER else console.progress() as advance:
        result = fit_adapter(
            products,
            recipe=recipe,
            model_card=model_card,
            output=output,
            force=force,
            options=options,
            resume=resume,
            require=require,
            advance=advance,
            # Shown before a gate may stop the fit.
            on_scores=lambda metrics: None if as_json or not require else console.print(tables.score_table(metrics, tables.SHORT_METRICS)),
        )
    _show(result, as_json, console)
    return result


def _show(result: FitResult, as_json: bool, console: Console) -> None:
    from catcli.reporting import sentences, tables

    metrics, adapter = result.metrics, result.adapter
    line = f"catcli predict catalog.parquet -o labeled.parquet --adapter {shlex.quote(str(adapter.folder))}"
    training = metrics.training
    console.event("fitted", rows=metrics.rows.read, seconds=training.seconds, adapter=adapter.fingerprint, folder=str(adapter.folder))
    if as_json:
        facts = {"adapter": str(adapter.folder), "predict": line, "metrics": metrics.model_dump(mode="json")}
        console.print_json(json.dumps(facts))
        return
    console.print(tables.parity_table(metrics))
    for decision in sentences.variant_decisions(metrics):
        console.info(decision)
    console.print(tables.score_table(metrics, tables.SHORT_METRICS))
    for sentence in filter(None, (sentences.catalog_scores(metrics), sentences.rows_needed(metrics), sentences.cascade(metrics))):
        console.print(sentence)
    console.info(f"trained in {training.seconds:.0f} s on {training.device}")
    console.print(f"adapter: {adapter.folder}", f"next:    {line}")
