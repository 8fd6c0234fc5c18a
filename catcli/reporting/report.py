"""``catcli report``: how good an adapter is, on the rows that its fit held out or on new ones; several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import RenderableType

from catcli.adapter.signing import check_signature
from catcli.adapter.store import find_adapter, newest_adapter
from catcli.atomic import atomic_write
from catcli.config import METHOD_TITLES
from catcli.data.io.output import write_errors
from catcli.errors import name_list
from catcli.evaluation.metrics import Evaluation
from catcli.evaluation.report_data import AdapterComparison, FitReport, NewRowsReport
from catcli.evaluation.requirements import Requirement, check_requirements
from catcli.logs import LOGGER, log_event
from catcli.paths import store_folder
from catcli.reporting import sentences, tables
from catcli.reporting.report_options import ReportOptions
from catcli.wording import count_noun

Report = FitReport | NewRowsReport | AdapterComparison


def report(
    names: Sequence[str] = (), options: ReportOptions | None = None, *, on_result: Callable[[Report], None] = lambda _: None
) -> Report:
    """The scores of the adapters ``names``, or of the newest in the store; ``on_result`` is called before ``--require`` is checked.

    Raises:
        CatcliError: something that the user can fix.
        GateMissed: a score is below what is required.
    """
    options = options or ReportOptions()
    options.check(names)
    requirements = tuple(map(Requirement.of, options.require))
    adapters = [find_adapter(name) for name in names] or [newest_adapter()]
    for adapter in adapters:
        check_signature(adapter, options.trusted_key)
    if not names:
        LOGGER.info(f"the newest adapter of {store_folder()}: {adapters[0].name}")
    # scikit-learn takes a second to import: not before the options are known to be good.
    from catcli.reporting.scoring import compare_adapters, report_held_out, report_new_rows

    if len(adapters) > 1:
        comparison = compare_adapters(adapters)
        on_result(comparison)
        return comparison
    adapter = adapters[0]
    LOGGER.debug(f"{adapter.folder.resolve()}, made {adapter.manifest.created:%Y-%m-%d %H:%M} UTC")
    view = report_new_rows(adapter, options) if options.on else report_held_out(adapter)
    log_event("scored", rows=view.report.scored_rows, adapter=adapter.fingerprint)
    if options.html:
        from catcli.reporting.report_page import report_page

        page = report_page(adapter.name, view.report, view.names, view.texts, view.probabilities, view.outcomes)
        with write_errors(str(options.html), "--html"), atomic_write(options.html) as path:
            path.write_text(page, encoding="utf-8")
        LOGGER.info(f"written: {options.html}")
    on_result(view.report)
    check_requirements(view.report, requirements, f"{adapter.folder} does not pass.")
    return view.report


def report_tables(report: Report) -> list[RenderableType]:
    """What a terminal shows of a report."""
    if isinstance(report, AdapterComparison):
        return _adapter_comparison(report)
    return _new_rows_report(report) if isinstance(report, NewRowsReport) else _fit_report(report)


def _summary(report: Evaluation) -> list[RenderableType]:
    """What comes before the tables, of any rows."""
    compared = (sentences.comparison(pair, report.method) for pair in (report.against_linear, report.against_lora))
    expected = [sentences.catalog_scores(report)] if isinstance(report, FitReport) and report.catalog else []
    notes = [*expected, *filter(None, [sentences.cascade(report)])]
    return [sentences.headline(report) + "\n", tables.score_table(report), *notes, "", *compared]


def _details(report: Evaluation) -> list[RenderableType]:
    """The tables of any rows."""
    accepting = [category for category in report.category_promises if any(entry.threshold is not None for entry in category.promises)]
    return [
        "",
        tables.threshold_table(report.promises),
        *_missing(report),
        *_rows_needed(report),
        *([tables.category_threshold_table(accepting)] if accepting else []),
        *([tables.back_off_table(report.back_off)] if report.back_off else []),
        *([tables.tree_table(report.tree)] if report.tree else []),
        *(sentences.calibration(variant, calibration) for variant, calibration in report.calibration.items()),
        "",
        tables.category_table(report.blend),
        *([tables.confusion_table(report.blend)] if report.blend.confusions else []),
    ]


def _missing(report: Evaluation) -> list[RenderableType]:
    """How many more labeled rows a missing threshold needs."""
    missing = [entry for entry in report.promises if entry.missing]
    if not missing or not isinstance(report, FitReport):
        return []
    rows = report.rows
    each = round(rows.labeled / max(missing[0].products, 1))
    if each < 2:
        return []
    kind = "tested" if rows.folds else "a validation"
    return [f"one labeled row in {each} is {kind} product, so each missing product takes about {each} more labeled rows\n"]


def _rows_needed(report: Evaluation) -> list[RenderableType]:
    sentence = sentences.rows_needed(report) if isinstance(report, FitReport) else ""
    return [sentence + "\n"] if sentence else []


def _fit_report(report: FitReport) -> list[RenderableType]:
    training = report.training
    unlabeled = f" and {training.unlabeled_rows:,} unlabeled rows that a teacher labeled" if training.unlabeled_rows else ""
    device = f", {training.device_memory / 2**20:,.0f} MiB on the GPU" if training.device_memory else ""
    return [
        *_summary(report),
        *([sentences.random_split(report.random_split)] if report.random_split else []),
        *_details(report),
        tables.parity_table(report),
        *sentences.variant_decisions(report),
        f"trained {training.trained:,} of {training.total:,} parameters on {training.device} with {training.lora_rows:,} rows{unlabeled}",
        f"{training.seconds:.0f} s in all: {METHOD_TITLES[report.method]} {training.lora_seconds:.0f} s, linear model "
        f"{training.linear_seconds:.1f} s, the rest export and scoring; peak memory {training.peak_memory / 2**20:,.0f} MiB{device}; "
        f"trained weights {training.learned_bytes / 2**20:.1f} MiB",
    ]


def _new_rows_report(report: NewRowsReport) -> list[RenderableType]:
    notes: list[RenderableType] = []
    if report.unlabeled:
        notes.append(f"left out because they have no category: {count_noun(report.unlabeled, 'row')}")
    if report.unknown_categories:
        rows = sum(unknown.rows for unknown in report.unknown_categories)
        names = name_list((f"{unknown.category} ({unknown.rows:,})" for unknown in report.unknown_categories), 5)
        notes.append(f"of categories unknown to the adapter, counted as wrong: {count_noun(rows, 'row')}, {names}")
    return [*_summary(report), *notes, *_details(report), tables.new_threshold_table(report.recalibrated)]


def _adapter_comparison(report: AdapterComparison) -> list[RenderableType]:
    from catcli.reporting.scoring import short_names

    names = short_names([Path(adapter.adapter) for adapter in report.adapters])
    counts = ", ".join(f"{adapter.test_rows:,}" for adapter in report.adapters)
    if report.comparisons:
        rows = f"on {count_noun(report.shared_rows, 'test row')} that all share, of {counts}"
    else:
        rows = (
            f"each on its own test rows ({counts}): they share {report.shared_rows:,}, too few to compare; fit them on the same file, "
            "columns and --split-seed, or score each with --on"
        )
    table = tables.adapter_table({name: adapter.blend for name, adapter in zip(names, report.adapters, strict=True)})
    return [table, rows + "\n", *(sentences.comparison(pair, None) for pair in report.comparisons)]
