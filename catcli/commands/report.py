"""``catcli report``: how good an adapter is, on the rows that its fit held out or on new ones; several side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Group, RenderableType

from catcli.adapter.signing import check_signature
from catcli.adapter.store import find_adapter, newest_adapter
from catcli.atomic import atomic_write
from catcli.config import METHOD_TITLES, check_device, check_variant
from catcli.data.io.output import check_folder, write_errors
from catcli.errors import UsageError, name_list
from catcli.evaluation.metrics import Evaluation
from catcli.evaluation.report_data import AdapterComparison, FitReport, NewRowsReport
from catcli.evaluation.requirements import Requirement, check_requirements
from catcli.paths import store_folder
from catcli.reporting import sentences, tables
from catcli.talk import Talk
from catcli.wording import count_noun

OF_ROWS = ("label", "text", "allow_missing", "merge_labels", "device", "variant", "input_format", "delimiter", "encoding")
"""What means something for the rows of ``--on`` only."""


@dataclass(frozen=True)
class ReportOptions:
    """What was asked for, as the options have it; ``on`` names labeled rows, ``label`` and ``text`` their columns."""

    on: str | None = None
    label: str | None = None
    text: Sequence[str] = ()
    allow_missing: bool = False
    merge_labels: bool = False
    html: Path | None = None
    require: Sequence[str] = ()
    device: str = "auto"
    variant: str = "auto"
    input_format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    trusted_key: Sequence[str] = ()

    def check(self, names: Sequence[str]) -> None:
        """Stop at options that mean nothing together."""
        check_device(self.device)
        if len(names) > 1 and (self.on or self.html or self.require):
            option = "--on" if self.on else "--html" if self.html else "--require"
            raise UsageError(f"{option} is of one adapter; name one of {name_list(names)}.")
        check_variant(self.variant)
        nothing = ReportOptions()
        for name in OF_ROWS:
            if getattr(self, name) != getattr(nothing, name) and not self.on:
                raise UsageError(f"--{name.replace('_', '-')} is about the rows that --on gives; add --on LABELED, or leave it out.")
        if self.html:
            check_folder(self.html, "--html")  # before the rows are scored


def report(
    names: Sequence[str] = (), asked: ReportOptions | None = None, *, as_json: bool = False, talk: Talk | None = None
) -> Evaluation | AdapterComparison:
    """Show what the adapters ``names``, or the newest of the store, reach.

    Raises:
        CatcliError: something that the user can mend.
        GateMissed: a score is below what is required; it was shown all the same.
    """
    # scikit-learn takes a second to import: not before the options are known to be good.
    asked, talk = asked or ReportOptions(), talk or Talk.silent()
    asked.check(names)
    demands = tuple(map(Requirement.of, asked.require))
    chosen = [find_adapter(name) for name in names] or [newest_adapter()]
    for one in chosen:
        check_signature(one, asked.trusted_key)
    if not names:
        talk.say(f"the newest adapter of {store_folder()}: {chosen[0].name}")
    from catcli.reporting.scoring import LabeledFile, compare_adapters, report_held_out, report_new_rows

    told: FitReport | NewRowsReport | AdapterComparison
    if len(chosen) > 1:
        told = compare_adapters(chosen)
        if as_json:
            talk.result(told.model_dump_json())
        else:
            talk.out.print(Group(*_beside(told)))
        return told
    talk.detail(f"{chosen[0].folder.resolve()}, made {chosen[0].manifest.created:%Y-%m-%d %H:%M} UTC")
    if asked.on:
        shared = {name: getattr(asked, name) for name in LabeledFile.__dataclass_fields__ if name != "file"}
        view = report_new_rows(chosen[0], LabeledFile(asked.on, **shared), talk)
    else:
        view = report_held_out(chosen[0])
    told = view.told
    talk.record("scored", rows=told.scored_rows, adapter=chosen[0].fingerprint)
    if asked.html:
        from catcli.reporting.report_page import report_page

        html = report_page(view.adapter.name, told, view.names, view.texts, view.probabilities, view.outcomes)
        with write_errors(str(asked.html), "--html"), atomic_write(asked.html) as file:
            file.write_text(html, encoding="utf-8")
        talk.say(f"written: {asked.html}")
    if as_json:
        talk.result(told.model_dump_json())
    else:
        talk.out.print(Group(*(_fresh(told) if isinstance(told, NewRowsReport) else _held(told))))
    check_requirements(told, demands, f"{chosen[0].folder} does not pass.")
    return told


def schema(*, talk: Talk) -> None:
    """Print what every name of ``--json`` means, as JSON Schema."""
    talk.result(json.dumps(TypeAdapter(FitReport | NewRowsReport | AdapterComparison).json_schema(mode="serialization"), indent=2))


def _told(told: Evaluation) -> list[RenderableType]:
    """What is said of any rows, before the tables."""
    compared = (sentences.comparison(found, told.method) for found in (told.against_linear, told.against_lora))
    return [sentences.headline(told) + "\n", tables.score_table(told), "", *compared]


def _detailed(told: Evaluation) -> list[RenderableType]:
    """The tables of any rows."""
    holding = [one for one in told.category_promises if any(made.threshold is not None for made in one.promises)]
    return [
        "",
        tables.threshold_table(told.promises),
        *_missing(told),
        *([tables.category_threshold_table(holding)] if holding else []),
        *(sentences.calibration(variant, found) for variant, found in told.calibration.items()),
        "",
        tables.category_table(told.blend),
        *([tables.confusion_table(told.blend)] if told.blend.confusions else []),
    ]


def _missing(told: Evaluation) -> list[RenderableType]:
    """How many labeled rows stand for a product that is missing to a threshold."""
    missing = [made for made in told.promises if made.missing]
    if not missing or not isinstance(told, FitReport):
        return []
    rows = told.rows
    each = round((rows.train + rows.validation + rows.test) / max(missing[0].products, 1))
    return [f"one labeled row in {each} is a product to choose by: each that is missing takes some {each} labeled rows more\n"]


def _held(told: FitReport) -> list[RenderableType]:
    took = told.training
    unlabeled = f" and {took.unlabeled_rows:,} unlabeled ones, which a teacher labeled," if took.unlabeled_rows else ""
    device = f" and {took.device_memory / 2**20:,.0f} MiB of the GPU's" if took.device_memory else ""
    return [
        *_told(told),
        *([sentences.random_split(told.random_split)] if told.random_split else []),
        *_detailed(told),
        tables.parity_table(told),
        *sentences.variant_decisions(told),
        f"{took.lora_rows:,} rows{unlabeled} trained {took.trained:,} of {took.total:,} parameters on {took.device}",
        f"{took.seconds:.0f} s in all: {METHOD_TITLES[told.method]} {took.lora_seconds:.0f} s, the linear model "
        f"{took.linear_seconds:.1f} s, the rest export and scoring; at most {took.peak_memory / 2**20:,.0f} MiB of memory{device}; what "
        f"was learned takes {took.learned_bytes / 2**20:.1f} MiB",
    ]


def _fresh(told: NewRowsReport) -> list[RenderableType]:
    said: list[RenderableType] = []
    if told.unlabeled:
        said.append(f"left out for want of a category: {count_noun(told.unlabeled, 'row')}")
    if told.unknown_categories:
        rows = sum(one.rows for one in told.unknown_categories)
        names = name_list((f"{one.category} ({one.rows:,})" for one in told.unknown_categories), 5)
        said.append(f"of categories that the adapter does not know, and counted as wrong: {count_noun(rows, 'row')}, {names}")
    return [*_told(told), *said, *_detailed(told), tables.new_threshold_table(told.recalibrated)]


def _beside(told: AdapterComparison) -> list[RenderableType]:
    from catcli.reporting.scoring import short_names

    names = short_names([Path(one.adapter) for one in told.adapters])
    counts = ", ".join(f"{one.test_rows:,}" for one in told.adapters)
    if told.comparisons:
        said = f"on {count_noun(told.shared_rows, 'test row')} that all share, of {counts}"
    else:
        said = (
            f"each on its own test rows ({counts}): they share {told.shared_rows:,}, too few to compare; fit them on the same file, "
            "columns and --split-seed, or score each with --on"
        )
    table = tables.adapter_table({name: one.blend for name, one in zip(names, told.adapters, strict=True)})
    return [table, said + "\n", *(sentences.comparison(found, None) for found in told.comparisons)]
