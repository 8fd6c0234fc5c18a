"""``catcli bench``: rows a second on this machine, by stage and from file to file."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl

from catcli.adapter.folder import Adapter
from catcli.adapter.store import find_adapter, only_adapter
from catcli.cli.console import Console
from catcli.config import check_device
from catcli.data.dataset.text import row_texts
from catcli.data.io.batch import Batch
from catcli.data.io.output import FileFormat
from catcli.data.io.part_file import PartFile, PartOptions
from catcli.data.io.parts import Parts, PartsInput
from catcli.data.io.source import open_source
from catcli.errors import ProductsError, UsageError, name_list
from catcli.evaluation.heldout import HeldOutRows
from catcli.inference.engines import ThreadEngine
from catcli.inference.labeler import Labeler
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.reporting.tables import table
from catcli.wording import per_cent

TRANSFORMERS_ROWS = 512
"""Rows for the transformers pipeline, which is many times slower."""


@dataclass(frozen=True)
class Stage:
    """Rows a second of one stage: the median over the repeats, and the slowest and fastest of them."""

    name: str
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Speeds:
    """What was measured, and on what.

    ``startup`` are the seconds until the adapter is ready, ``decided`` is the share of texts that the linear model decides alone.
    """

    rows: int
    variant: str
    provider: str
    startup: float
    decided: float
    stages: tuple[Stage, ...]


def bench(
    catalog: Sequence[str],
    *,
    adapter: str | None = None,
    rows: int = 4096,
    repeats: int = 5,
    against: str | None = None,
    device: str = "auto",
    variant: str = "auto",
    as_json: bool = False,
    console: Console,
) -> Speeds:
    """Time an adapter on rows of ``catalog``, or on its own held-out rows where there is none. Repeated texts are labeled each time.

    Raises:
        CatcliError: what `catcli.inference.predict.predict` would raise.
    """
    check_device(device)
    if against not in (None, "transformers"):
        raise UsageError(f"--against {against}: choose transformers, or leave it out.")
    loaded = find_adapter(adapter) if adapter else only_adapter()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "catalog.parquet"
        frame = _rows(catalog, loaded, rows)
        frame.write_parquet(file)
        started = time.perf_counter()
        labeler = Labeler(loaded, device, variant)
        startup = time.perf_counter() - started
        stages = []
        for name, count, run in _stages(frame, file, loaded, labeler, against):
            console.info(f"timing {name}")
            stages.append(_timed(name, count, run, repeats))
        decided = float(labeler.decided(row_texts(frame, frame.columns, loaded.manifest.prices)).mean())
    speeds = Speeds(len(frame), labeler.variant, labeler.provider, startup, decided, tuple(stages))
    _show(speeds, as_json, console)
    return speeds


def _rows(catalog: Sequence[str], adapter: Adapter, rows: int) -> pl.DataFrame:
    """So many rows with the adapter's text columns under the names of training."""
    wanted = adapter.manifest.text
    if catalog:
        batch = next(open_source(catalog).batches(rows))
        missing = [name for name in wanted if name not in batch.columns]
        if len(missing) == len(wanted):
            raise ProductsError(
                f"{catalog[0]} has none of the adapter's text columns {name_list(wanted)}; name them so for this measurement."
            )
        frame = batch.select([name for name in wanted if name not in missing]).head(rows)
    else:
        heldout = HeldOutRows.load(adapter.file("heldout.parquet"), adapter.manifest.categories)
        if not heldout.has_texts:
            raise ProductsError(f"{adapter.folder} was exported without rows; name a catalog to measure with: catcli bench catalog.csv.")
        texts = heldout.texts
        frame = pl.DataFrame({wanted[0]: (texts * (rows // max(len(texts), 1) + 1))[:rows]})
    if not len(frame):
        raise ProductsError("there are no rows to measure with; name a catalog that has some.")
    return frame


def _stages(
    frame: pl.DataFrame, file: Path, adapter: Adapter, labeler: Labeler, against: str | None
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    texts = row_texts(frame, frame.columns, adapter.manifest.prices)
    peer_texts = texts[:TRANSFORMERS_ROWS]
    peer = (
        pipeline_of(adapter, labeler, peer_texts) if against == "transformers" else None
    )  # before the others are timed: it may not be had
    count = len(texts)
    yield "reading", count, lambda: [batch.frame for batch in open_source([str(file)]).batches()]
    yield "tokenizing", count, lambda: labeler.tokenize(texts)
    tokens = labeler.tokenize(texts)
    yield "session alone", count, lambda: labeler.lora(tokens)
    yield "linear model alone", count, lambda: labeler.linear(texts)
    yield "writing", count, lambda: _written(frame, file.with_name("written.parquet"))
    options = PredictOptions(str(file.with_name("labeled.parquet")), str(adapter.folder), dedupe=False, allow_missing=True)
    yield "from file to file", count, lambda: predict([str(file)], options, engine=ThreadEngine(labeler))
    if labeler.cascade is not None:
        exact = Labeler(adapter, labeler.device, labeler.variant, vetting="done", max_change=0)
        yield "the same, --exact", count, lambda: predict([str(file)], replace(options, exact=True), engine=ThreadEngine(exact))
    if peer is not None:
        yield "transformers pipeline", len(peer_texts), peer


def _written(frame: pl.DataFrame, out: Path) -> None:
    inputs = (PartsInput(Path("in"), "0" * 12, "in"),)
    with Parts(str(out), FileFormat("parquet"), inputs, {}, resume=False) as parts:
        options = PartOptions(str(out), parts.folder, parts.form, ["0" * 12])
        path = options.path(0, 0)
        with PartFile(path, options) as part:
            part.write(Batch(frame, 1.0), frame.columns, frame.select())
        parts.add(path.name, {"rows": len(frame)})
        parts.finish(Batch(frame.clear(), 1.0))


def pipeline_of(adapter: Adapter, labeler: Labeler, texts: list[str], batch_size: int = 64) -> Callable[[], object]:
    """The text-classification pipeline over the same base, as its documentation shows it; what its head has learned changes no speed.

    On a GPU it computes in half precision, as catcli does.
    """
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    from catcli.models.bases import find_base

    transformers.logging.set_verbosity_error()  # it would tell that the head has learned nothing, and which device it took
    base = find_base(adapter.manifest.base.name)
    if base.architecture.encoder:
        raise UsageError(f"--against transformers: its pipeline has no classifier on the encoder of {base.hub} alone; leave it out.")
    model = AutoModelForSequenceClassification.from_pretrained(
        base.folder, num_labels=len(labeler.categories), use_safetensors=True, trust_remote_code=False
    ).eval()
    base.cut(model.base_model)
    model.config.pad_token_id = base.pad_id  # GPT-2 has none, and its pipeline asks for one
    device = -1
    if labeler.provider.startswith("CUDA"):
        device, model = 0, model.half()
    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    tokenizer.pad_token_id = base.pad_id
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)
    return lambda: classify(texts, batch_size=batch_size, truncation=True, max_length=adapter.manifest.max_tokens)


def _timed(name: str, rows: int, run: Callable[[], object], repeats: int) -> Stage:
    run()  # warm-up
    speeds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        speeds.append(rows / (time.perf_counter() - start))
    return Stage(name, statistics.median(speeds), min(speeds), max(speeds))


def _show(speeds: Speeds, as_json: bool, console: Console) -> None:
    if as_json:
        console.print_json(json.dumps(asdict(speeds)))
        return
    shown = table(f"{speeds.rows:,} rows, {speeds.variant} on {speeds.provider}", "stage", "rows/s", "lowest", "highest")
    for stage in speeds.stages:
        shown.add_row(stage.name, f"{stage.median:,.0f}", f"{stage.lowest:,.0f}", f"{stage.highest:,.0f}")
    console.print(shown)
    if speeds.decided:
        console.print(f"{per_cent(speeds.decided)} of texts decided by the linear model alone")
    console.print(f"start-up, not in these: {speeds.startup:.2f} s until the adapter is ready")
