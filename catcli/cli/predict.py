"""``catcli predict``: a catalog → the same catalog with categories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.cli.app import app, examples
from catcli.cli.lifecycle import command
from catcli.cli.options import Catalog, Flags, Json
from catcli.errors import UsageError
from catcli.inference.predict_options import PredictOptions

MIN_CHECKED = 100
"""Checked texts below which the share of changed ones says nothing."""

if TYPE_CHECKING:
    from catcli.cli.console import Console
    from catcli.data.dataset.taxonomy import CategoryTree
    from catcli.inference.dry_run import RunEstimate
    from catcli.inference.predict import PredictJob
    from catcli.inference.summary import PredictSummary


@app.command(
    epilog=examples(
        "catcli predict catalog.parquet -o labeled.parquet",
        "catcli predict catalog.csv -o labeled.csv --min-confidence 0.8 --top-k 3",
        "catcli predict catalog.csv -o labeled.csv --precision 0.95 --review doubtful.csv",
        "catcli predict today.parquet -o labeled.parquet --previous labeled.parquet",
        "zcat export.csv.gz | catcli predict - -o - --text title='Product Title' | head",
    )
)
@command
def predict(
    catalog: Catalog,
    options: Annotated[PredictOptions, Flags(PredictOptions)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate rows, time and memory; write nothing.")] = False,
    as_json: Json = False,
    *,
    console: Console,
) -> None:
    """A catalog → the same catalog with categories: every row once, in its order, its columns unchanged."""
    (run_dry if dry_run else run_predict)(catalog, options, as_json=as_json, console=console)


def run_predict(catalog: Sequence[str], options: PredictOptions, *, as_json: bool = False, console: Console) -> PredictSummary:
    """Label the catalog and show what the run came to; see `catcli.inference.predict.predict`."""
    _start_check(options, as_json)
    from catcli.inference.predict import label_catalog, open_job

    with open_job(catalog, options) as job:
        with console.progress() as advance:
            summary = label_catalog(job, advance)
        _show(summary, job, as_json, console)
    return summary


def run_dry(catalog: Sequence[str], options: PredictOptions, *, as_json: bool = False, console: Console) -> RunEstimate:
    """Show what the run would take; see `catcli.inference.dry_run.dry_run`."""
    _start_check(options, as_json)
    from catcli.inference.dry_run import dry_run
    from catcli.wording import duration, per_cent

    estimate = dry_run(catalog, options)
    if as_json:
        console.print_json(json.dumps(asdict(estimate)))
        return estimate
    rows = "an unknown number of" if estimate.rows is None else f"{estimate.rows:,}"
    seconds = "" if estimate.seconds is None else f", about {duration(estimate.seconds)}"
    console.print(
        f"{rows} rows{seconds} at {estimate.rows_per_second:,.0f} rows/s ({estimate.variant} on {estimate.provider}); "
        f"{estimate.memory / 2**20:,.0f} MiB of memory"
    )
    if estimate.decided:
        console.info(f"{per_cent(estimate.decided)} of texts decided by the linear model alone")
    console.info("nothing was written; repeated texts and the rows of --previous make it faster")
    return estimate


def _start_check(options: PredictOptions, as_json: bool) -> None:
    """Refuse two results on one standard output; start the adapter's test in the sandbox while this process imports polars."""
    if options.output == "-" and as_json:
        raise UsageError("--json and -o - would both write to standard output; give -o a file.")
    from catcli.inference.early_check import start_adapter_check

    start_adapter_check(options.adapter, options.variant)


def _show(summary: PredictSummary, job: PredictJob, as_json: bool, console: Console) -> None:
    from catcli.inference.result_columns import PREDICTED
    from catcli.wording import count_noun

    options, engine = job.options, job.engine
    speed = (summary.rows - summary.resumed) / max(summary.seconds, 1e-9)
    shown = {name: value for name, value in asdict(summary).items() if name not in ("confidence", "guessed", "guesses")}
    counts = {name: value for name, value in shown.items() if name != "categories"}
    console.event("labeled", **counts, adapter=job.adapter.fingerprint, output=options.output)
    if as_json:
        facts = {
            **shown,
            "mean_confidence": summary.mean_confidence,
            "output": options.output,
            "run": console.run,
            "adapter": job.adapter.fingerprint,
            "rows_per_second": speed,
            "variant": engine.variant,
            "provider": engine.provider,
            "max_change": engine.cascade.max_change if engine.cascade else 0.0,
        }
        console.print_json(json.dumps(facts, ensure_ascii=False))
        return
    console.info(f"{count_noun(summary.rows, 'row')} labeled in {summary.seconds:.1f} s ({speed:,.0f} rows/s, {engine.description})")
    if engine.cascade is not None and summary.labeled:
        console.info(cascade_outcome(summary))
    if options.apply:
        console.info(f"{count_noun(summary.applied, 'row')} as {options.apply} says")
    if options.previous:
        labeled = summary.rows - summary.taken_over
        console.info(f"{count_noun(summary.taken_over, 'row')} taken over from {options.previous}, {labeled:,} labeled")
    if options.precision is not None or options.min_confidence:
        by_precision = f"the threshold of --precision {options.precision:g}" if options.precision is not None else ""
        below = by_precision or f"--min-confidence {options.min_confidence:g}"
        console.info(f"{count_noun(summary.below, 'row')} below {below}, where {PREDICTED} is null")
    if job.plan.choice.back_off is not None:
        console.info(f"labeled at {level_counts(summary, job.plan.choice.back_off.tree)}")
    if options.review:
        most = options.review_budget
        order = "the most confident last" if most is None else f"at most {most:,} groups, the most helpful first"
        console.info(f"those rows, near-equal ones together, {order}: {options.review}")
        console.info("next:    fill in its column category, then predict --apply or fit --corrections with it")
    if options.output != "-":
        console.info(f"written: {options.output}")


def level_counts(summary: PredictSummary, tree: CategoryTree) -> str:
    """How many rows got a label at each level of the tree."""
    from catcli.wording import count_noun

    levels = dict(zip(tree.paths, tree.levels.tolist(), strict=True))
    counts: Counter[int] = Counter()
    for path, rows in summary.categories.items():
        counts[levels[path]] += rows
    return ", ".join(f"level {level}: {count_noun(counts[level], 'row')}" for level in sorted(counts)) or "no level"


def cascade_outcome(summary: PredictSummary) -> str:
    """How many texts the linear model decided alone, and what the checked ones of them say of it."""
    from catcli.wording import count_noun, per_cent

    decided = f"{per_cent(summary.decided / summary.labeled)} of {count_noun(summary.labeled, 'text')} decided by the linear model alone"
    if summary.checked < MIN_CHECKED:
        return decided
    share, low, high = summary.changed_share()
    return (
        f"{decided}; both models labeled {summary.checked:,} of these, too: {per_cent(share, 2)} of all texts have another category than "
        f"by both (95 % interval {per_cent(low, 2)} to {per_cent(high, 2)})"
    )
