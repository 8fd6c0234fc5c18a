"""``catcli predict``: a catalog → the same catalog with categories."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from catcli import adapter as adapters
from catcli.commands.talk import Talk
from catcli.errors import OutputError, ProductsError, UsageError, listed
from catcli.products.columns import alike, find
from catcli.products.read import Source, open_source
from catcli.products.text import is_textual
from catcli.products.write import open_output, output_format
from catcli.recipe import check_device
from catcli.runtime.labeler import Labeler
from catcli.runtime.pipeline import ALTERNATIVES, CONFIDENCE, PREDICTED, Plan, Summary, run


def predict(
    catalog: Sequence[str],
    *,
    output: str,
    adapter: str | None = None,
    text: Sequence[str] = (),
    top_k: int = 1,
    min_confidence: float = 0.0,
    device: str = "auto",
    allow_missing: bool = False,
    replace_columns: bool = False,
    no_clobber: bool = False,
    output_as: str | None = None,
    input_format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    as_json: bool = False,
    talk: Talk | None = None,
) -> Summary:
    """Label every row of ``catalog`` and write it to ``output``.

    Raises:
        CatcliError: something that the user can mend; whatever stood at ``output`` still stands.
    """
    talk = talk or Talk.silent()
    check_device(device)
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence {min_confidence}: a probability, from 0 to 1.")
    if output == "-" and as_json:
        raise UsageError("--json and -o - would both write to standard output; give -o a file.")
    form = output_format(output, output_as)
    _check_output(output, no_clobber)
    source = open_source(catalog, input_format=input_format, delimiter=delimiter, encoding=encoding)
    if output != "-" and any(path.resolve() == Path(output).resolve() for path in source.paths):
        raise UsageError(f"-o {output} is one of the inputs; write to another file.")
    chosen = adapters.named(adapter) if adapter else adapters.only()
    plan = _plan(source, chosen, text, top_k, min_confidence, allow_missing, replace_columns, form in ("csv", "tsv"), talk)

    started = time.perf_counter()
    labeler = Labeler(chosen, device)
    for note in labeler.notes:
        talk.warn(note)
    talk.detail(f"adapter {chosen.folder}, {labeler.variant} on {labeler.provider}, ready in {time.perf_counter() - started:.2f} s")
    with talk.progress() as bar, open_output(output, form) as sink:
        summary = run(source, sink, labeler, plan, lambda rows, share: bar("labeling", rows, rows / share if share else rows))
    _show(summary, output, min_confidence, as_json, labeler, talk)
    return summary


def _check_output(output: str, no_clobber: bool) -> None:
    if output != "-" and no_clobber and Path(output).exists():
        raise OutputError(f"-o {output} exists and --no-clobber leaves it alone; choose another name.")


def _plan(
    source: Source,
    adapter: adapters.Adapter,
    text: Sequence[str],
    top_k: int,
    min_confidence: float,
    allow_missing: bool,
    replace_columns: bool,
    as_json: bool,
    talk: Talk,
) -> Plan:
    layout = next(iter(source.batches(1))).frame.schema
    columns = layout.names()
    ours = [PREDICTED, CONFIDENCE, *([ALTERNATIVES] if top_k > 1 else [])]
    taken = tuple(name for name in ours if name in columns)
    if taken and not replace_columns:
        raise ProductsError(
            f"{source.name} already has {listed(taken)}, which this run would write; pass --replace-columns to drop "
            f"{'it' if len(taken) == 1 else 'them'} first."
        )
    wanted = adapter.manifest.text
    asked = _mapping(text, wanted, columns, source.name)
    matched: list[str | None] = []
    for trained in wanted:
        same = alike(trained, columns)
        column = asked.get(trained) or (same[0] if len(same) == 1 else None)
        if column is None and not allow_missing:
            raise ProductsError(
                f"{source.name} has no column {trained!r}, which the adapter reads; say which one it is with --text {trained}=COLUMN "
                f"or pass --allow-missing; its columns are {listed(columns, 30)}."
            )
        if column is not None and column != trained:
            talk.say(f"text {trained!r} is read from {column!r}")
        if column is not None and not is_textual(layout[column]):
            raise ProductsError(
                f"{source.name}: the cells of {column!r} are {layout[column]}, not text; map another with --text {trained}=COLUMN."
            )
        matched.append(column)
    if not any(matched):
        raise ProductsError(f"{source.name} has none of the adapter's text columns {listed(wanted)}; name them with --text TRAINED=COLUMN.")
    return Plan(tuple(matched), top_k, min_confidence, taken, as_json)


def _mapping(text: Sequence[str], wanted: Sequence[str], columns: Sequence[str], where: str) -> dict[str, str]:
    asked = {}
    for pair in text:
        trained, equals, column = pair.partition("=")
        if not equals:
            raise UsageError(f"--text {pair}: write TRAINED=COLUMN, for example --text {wanted[0]}={pair}.")
        asked[find(trained, wanted, "--text", "the adapter")] = find(column, columns, "--text", where)
    return asked


def _show(summary: Summary, output: str, min_confidence: float, as_json: bool, labeler: Labeler, talk: Talk) -> None:
    speed = summary.rows / max(summary.seconds, 1e-9)
    if as_json:
        facts = {**asdict(summary), "output": output, "rows_per_second": speed, "variant": labeler.variant, "provider": labeler.provider}
        json.dump(facts, sys.stdout, ensure_ascii=False)
        print()
        return
    talk.say(f"{summary.rows:,} rows labeled in {summary.seconds:.1f} s ({speed:,.0f} rows/s, {labeler.variant} on {labeler.provider})")
    if min_confidence:
        talk.say(f"{summary.below:,} rows are below --min-confidence {min_confidence:g}: their {PREDICTED} is null")
    if summary.short:
        talk.warn(f"{summary.short:,} rows have fewer cells than the header; the missing ones are taken as empty.")
    if summary.blank:
        talk.warn(f"{summary.blank:,} rows have no text; their category is a guess of low worth.")
    if output != "-":
        talk.say(f"written: {output}")
