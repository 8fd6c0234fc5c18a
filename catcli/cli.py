"""The front door: commands, options, help, exit codes. No logic, and no heavy import before a command runs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catcli.ending import asked_for_json_log, command, plain_tracebacks, wrong_usage
from catcli.options import (
    AllowMissing,
    Balance,
    Base,
    Catalog,
    Delimiter,
    DeviceOption,
    Dtype,
    Encoding,
    Epochs,
    Group,
    InputFormat,
    Json,
    LabelOption,
    MergeLabels,
    Method,
    PerCategory,
    Products,
    RecipeOption,
    Require,
    Seed,
    SplitSeed,
    TeacherOption,
    TextColumns,
    TextMapping,
    TrustedKey,
    Unlabeled,
    VariantOption,
)

if TYPE_CHECKING:
    from catcli.talk import Talk

app = typer.Typer(
    name="catcli",
    help="Label products with LoRA adapters: fit on labeled rows, predict a catalog of any size, report how good it is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
store = typer.Typer(
    name="adapters", help="The adapters of the store: ./adapters, or the folder that CATCLI_ADAPTERS names.", no_args_is_help=True
)
app.add_typer(store)


def _version(asked: bool) -> None:
    if asked:
        from catcli import __version__

        print(f"catcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Label products with LoRA adapters: fit on labeled rows, predict a catalog of any size, report how good it is."""


# --- commands ------------------------------------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\n  catcli fit products.csv\n\n"
    "  catcli fit offers.csv --label 'Category Label' --text 'Product Title' --group 'Cluster ID'\n\n"
    "  catcli fit 'exports/*.parquet' -o adapters/shop --force --epochs 3"
)
@command
def fit(
    products: Products,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The adapter's folder; adapters/<name of the first file> by default.", metavar="FOLDER"),
    ] = None,
    label: LabelOption = None,
    text: TextColumns = None,
    group: Group = None,
    base: Base = None,
    method: Method = None,
    rank: Annotated[int | None, typer.Option(help="The adapters' rank.  [default: 8]")] = None,
    alpha: Annotated[int | None, typer.Option(help="The adapters' output is scaled by alpha / rank.  [default: 16]")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout before the adapters.  [default: 0.1]")] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Linear layers that get adapters, in every block; those that suit the base by default.", metavar="NAME,NAME"),
    ] = None,
    epochs: Epochs = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate; it hangs on base and method by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a training step.  [default: 32]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW, on matrices.  [default: 0.01]")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longer texts are cut; by default 99 % of them are whole, up to 128.")] = None,
    pool: Annotated[
        str | None, typer.Option(help="How token states become one vector: mean, cls or last; by the base by default.", metavar="POOL")
    ] = None,
    balance: Balance = None,
    merge_labels: MergeLabels = None,
    per_category: PerCategory = None,
    split: Annotated[
        str | None, typer.Option(help="Per cent to train, to choose and to score.  [default: 80/10/10]", metavar="A/B/C")
    ] = None,
    split_seed: SplitSeed = None,
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit", help="After scoring, train both models on all rows, or ship those that were scored.  [default: refit]"
        ),
    ] = None,
    seed: Seed = None,
    teacher: TeacherOption = None,
    unlabeled: Unlabeled = None,
    time_budget: Annotated[
        str | None, typer.Option(help="What the whole fit may take, such as 90s, 10m or 2h; it trains as far as that goes.", metavar="TIME")
    ] = None,
    device: DeviceOption = None,
    dtype: Dtype = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was killed.")] = False,
    recipe: RecipeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that is there.")] = False,
    require: Require = None,
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """Labeled products → an adapter: trained, merged, exported to ONNX, scored on rows it never saw."""
    from catcli.commands.fit import fit as run
    from catcli.config import Recipe
    from catcli.data.dataset.prepare import InputOptions

    given = {
        "label": label,
        "text": tuple(text or ()),
        "group": group,
        "split": split,
        "split_seed": split_seed,
        "refit": refit,
        "teacher": teacher,
        "unlabeled": unlabeled,
        "time_budget": time_budget,
        "dtype": dtype,
        "seed": seed,
        "base": base,
        "method": method,
        "targets": tuple(name.strip() for name in (targets or "").split(",") if name.strip()),
        "pool": pool,
        "balance": balance,
        "merge_labels": merge_labels,
        "per_category": per_category,
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "max_tokens": max_tokens,
        "device": device,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
    }
    run(
        products,
        recipe=Recipe.start(recipe, given),
        output=output,
        force=force,
        reading=InputOptions(input_format, delimiter, encoding),
        as_json=as_json,
        resume=resume,
        require=tuple(require or ()),
        talk=talk,
    )


@app.command(
    epilog="Examples:\n\n  catcli predict catalog.parquet -o labeled.parquet\n\n"
    "  catcli predict catalog.csv -o labeled.csv --min-confidence 0.8 --top-k 3\n\n"
    "  catcli predict catalog.csv -o labeled.csv --precision 0.95 --review doubtful.csv\n\n"
    "  catcli predict today.parquet -o labeled.parquet --previous labeled.parquet\n\n"
    "  zcat export.csv.gz | catcli predict - -o - --text title='Product Title' | head"
)
@command
def predict(
    catalog: Catalog,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="The labeled file; its ending says the format. A folder (out/) gets a file per input, - is standard output.",
            metavar="OUT",
        ),
    ],
    adapter: Annotated[
        str | None, typer.Option(help="A folder, or a name in the store; the only one there by default.", metavar="FOLDER")
    ] = None,
    text: TextMapping = None,
    top_k: Annotated[int, typer.Option(min=1, help="Above 1, a column with the K most probable categories is added.")] = 1,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Below it the predicted category is null.")] = 0.0,
    precision: Annotated[
        float | None,
        typer.Option(help="Accept only rows above the confidence that was shown to hold this precision; exit code 3 where none was."),
    ] = None,
    by_category: Annotated[
        bool, typer.Option("--by-category", help="With --precision: hold it within each category; the others' rows are not accepted.")
    ] = False,
    review: Annotated[
        str | None, typer.Option(help="A file that gets the rows that are not accepted, the surest last.", metavar="FILE")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Write only these columns of the catalog, beside ours.", metavar="COLUMN,COLUMN")] = None,
    previous: Annotated[
        str | None,
        typer.Option(help="An earlier output: rows whose text is in it keep their labels, if this adapter gave them.", metavar="LABELED"),
    ] = None,
    no_dedupe: Annotated[bool, typer.Option("--no-dedupe", help="Label a text anew each time that it comes.")] = False,
    safe_csv: Annotated[
        bool, typer.Option("--safe-csv", help="Put an apostrophe before what a spreadsheet would run as a formula.")
    ] = False,
    trusted_key: TrustedKey = None,
    device: DeviceOption = None,
    variant: VariantOption = "auto",
    engine: Annotated[
        str, typer.Option(help="local, or ray: workers on a Ray cluster label, to the same output (pip install 'catcli\\[ray]').")
    ] = "local",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a batch; by the device by default.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Batches at once, one a core by default; with --engine ray its workers, one a GPU.")
    ] = None,
    on_bad_row: Annotated[
        str,
        typer.Option(
            help="A row that cannot be read stops the run, is left out (skip), or comes out with nulls (null); the last two list them in "
            "OUT.bad.jsonl.",
            metavar="stop|skip|null",
        ),
    ] = "stop",
    allow_missing: AllowMissing = False,
    replace_columns: Annotated[
        bool, typer.Option("--replace-columns", help="Drop columns of the catalog that have the names of ours.")
    ] = False,
    no_clobber: Annotated[bool, typer.Option("--no-clobber", help="Stop if OUT exists.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many rows there are, how long they take and what memory; write nothing.")
    ] = False,
    output_as: Annotated[
        str | None, typer.Option("--format", help="csv, tsv, jsonl, parquet or arrow, where OUT's ending does not say.", metavar="FORMAT")
    ] = None,
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """A catalog → the same catalog with categories: every row once, in its order, its columns unchanged."""
    from catcli.inference.early_check import start_adapter_check

    start_adapter_check(adapter, variant)
    from catcli.commands.predict import PredictOptions
    from catcli.commands.predict import predict as run
    from catcli.inference.dry_run import dry_run as estimate

    asked = PredictOptions(
        output=output,
        adapter=adapter,
        text=tuple(text or ()),
        top_k=top_k,
        min_confidence=min_confidence,
        precision=precision,
        by_category=by_category,
        review=review,
        device=device or "auto",
        variant=variant,
        engine=engine,
        batch_tokens=batch_tokens,
        workers=workers,
        keep=keep,
        previous=previous,
        dedupe=not no_dedupe,
        safe_csv=safe_csv,
        trusted_key=tuple(trusted_key or ()),
        on_bad_row=on_bad_row,
        allow_missing=allow_missing,
        replace_columns=replace_columns,
        no_clobber=no_clobber,
        resume=resume,
        output_as=output_as,
        input_format=input_format,
        delimiter=delimiter,
        encoding=encoding,
    )
    (estimate if dry_run else run)(catalog, asked, as_json=as_json, talk=talk)


@app.command(
    epilog="Examples:\n\n  catcli report\n\n  catcli report adapters/shop --html report.html --require macro_f1=0.9\n\n"
    "  catcli report adapters/shop --on checked.csv\n\n  catcli report adapters/old adapters/new\n\n"
    "  catcli report --json | python -m json.tool"
)
@command
def report(
    adapter: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER]...", help="A folder, or a name in the store; the newest there by default. Several: side by side."
        ),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Score new labeled rows in place of those that the fit held out.", metavar="LABELED")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write all of it as one page, too.", metavar="FILE")] = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    label: Annotated[
        str | None, typer.Option(help="With --on: the column with the true categories, where it has another name.", metavar="COLUMN")
    ] = None,
    text: TextMapping = None,
    allow_missing: AllowMissing = False,
    merge_labels: Annotated[
        bool, typer.Option("--merge-labels", help="Take categories that differ only by case or blanks for those of the adapter.")
    ] = False,
    device: DeviceOption = None,
    variant: VariantOption = "auto",
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: Json = False,
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print what every name of --json means, and end.")] = False,
    *,
    talk: Talk,
) -> None:
    """How good an adapter is, on rows it never saw: scores with intervals, what may be labeled unseen, and what it confuses."""
    from catcli.commands.report import ReportOptions, schema
    from catcli.commands.report import report as run

    asked = ReportOptions(
        on=on,
        label=label,
        text=tuple(text or ()),
        allow_missing=allow_missing,
        merge_labels=merge_labels,
        html=html,
        trusted_key=tuple(trusted_key or ()),
        require=tuple(require or ()),
        device=device or "auto",
        variant=variant,
        input_format=input_format,
        delimiter=delimiter,
        encoding=encoding,
    )
    schema(talk=talk) if json_schema else run(adapter or (), asked, as_json=as_json, talk=talk)


@app.command(
    epilog="Examples:\n\n  catcli tune products.csv\n\n  catcli tune products.csv --trials 40 --resume\n\n"
    "  catcli tune products.csv --recipe distilroberta-lora --metric macro_f1 && catcli fit products.csv --recipe products.tuned.json"
)
@command
def tune(
    products: Products,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .json file for the best recipe; <name of the first file>.tuned.json.", metavar="FILE"),
    ] = None,
    trials: Annotated[int, typer.Option(help="Recipes to try, in all; the first is the one that it begins with.")] = 20,
    folds: Annotated[int, typer.Option(help="Parts that the rows are dealt out to; each is scored by a training on the others.")] = 3,
    timeout: Annotated[str | None, typer.Option(help="No trial begins after so many seconds, or 10m, or 2h.", metavar="TIME")] = None,
    metric: Annotated[
        str, typer.Option(help="What ranks the trials: macro_f1, accuracy, log_loss or another score of 'catcli report'.")
    ] = "macro_f1",
    recipe: RecipeOption = None,
    label: LabelOption = None,
    text: TextColumns = None,
    group: Group = None,
    base: Base = None,
    method: Method = None,
    balance: Balance = None,
    merge_labels: MergeLabels = None,
    per_category: PerCategory = None,
    split_seed: SplitSeed = None,
    seed: Seed = None,
    teacher: TeacherOption = None,
    unlabeled: Unlabeled = None,
    device: DeviceOption = None,
    dtype: Dtype = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search: one that was killed, or with more --trials.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the recipe and the search that are there.")] = False,
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """Search learning rate, batch size, weight decay, rank, alpha, dropout and epochs by cross-validation; writes the best recipe."""
    from catcli.commands.tune import SearchOptions
    from catcli.commands.tune import tune as run
    from catcli.config import Recipe, parse_seconds
    from catcli.data.dataset.prepare import InputOptions

    given = {
        "label": label,
        "text": tuple(text or ()),
        "group": group,
        "base": base,
        "method": method,
        "balance": balance,
        "merge_labels": merge_labels,
        "per_category": per_category,
        "split_seed": split_seed,
        "seed": seed,
        "teacher": teacher,
        "unlabeled": unlabeled,
        "device": device,
        "dtype": dtype,
    }
    run(
        products,
        recipe=Recipe.start(recipe, given),
        search=SearchOptions(trials, folds, None if timeout is None else parse_seconds("--timeout", timeout), metric),
        output=output,
        resume=resume,
        force=force,
        reading=InputOptions(input_format, delimiter, encoding),
        as_json=as_json,
        talk=talk,
    )


@app.command(
    epilog="Examples:\n\n  catcli compare products.csv\n\n"
    "  catcli compare products.csv --base distilroberta --base gpt2 --method lora --method full --seed 0 --seed 1\n\n"
    "  catcli compare adapters/old adapters/new --on catalog.parquet --weight revenue --max-churn 0.02"
)
@command
def compare(
    products: Annotated[
        list[str],
        typer.Argument(metavar="PRODUCTS...|ADAPTER ADAPTER", help="Labeled rows to fit on; with --on two adapters, the one in use first."),
    ],
    base: Annotated[list[str] | None, typer.Option(help="A base, as in fit; repeat for several.", metavar="NAME")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, as in fit, or linear; repeat for several.  [default: lora, full, head, linear]", metavar="METHOD"),
    ] = None,
    balance: Annotated[list[str] | None, typer.Option(help="A balance, as in fit; repeat for several.", metavar="HOW")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of training; repeat for several, whose mean is told.", metavar="N")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="A folder for the adapters and the page; <name of the first file>.compared by default. With --on: a file for the rows "
            "that change.",
            metavar="OUT",
        ),
    ] = None,
    recipe: RecipeOption = None,
    label: LabelOption = None,
    text: TextColumns = None,
    group: Group = None,
    merge_labels: MergeLabels = None,
    per_category: PerCategory = None,
    epochs: Epochs = None,
    split_seed: SplitSeed = None,
    teacher: TeacherOption = None,
    unlabeled: Unlabeled = None,
    dtype: Dtype = None,
    on: Annotated[
        str | None, typer.Option(help="A catalog: which of its rows the second adapter would put into another category.", metavar="CATALOG")
    ] = None,
    weight: Annotated[
        str | None, typer.Option(help="With --on: a column of numbers, such as revenue, that rows count by.", metavar="COLUMN")
    ] = None,
    max_churn: Annotated[
        float | None, typer.Option(help="With --on: exit code 3 where more than this share changes.", metavar="SHARE")
    ] = None,
    allow_missing: AllowMissing = False,
    variant: VariantOption = "auto",
    device: DeviceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Fit anew what was fitted on other rows or with other settings.")] = False,
    input_format: InputFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """Bases and methods side by side on one split; or, with --on, the rows of a catalog that change category between two adapters."""
    from catcli.data.dataset.prepare import InputOptions

    reading = InputOptions(input_format, delimiter, encoding)
    if on is not None:
        from catcli.inference.diff import DiffOptions, diff_adapters

        fitting: dict[str, object] = {
            "--base": base,
            "--method": method,
            "--balance": balance,
            "--seed": seed,
            "--recipe": recipe,
            "--label": label,
            "--group": group,
            "--merge-labels": merge_labels,
            "--per-category": per_category,
            "--epochs": epochs,
            "--split-seed": split_seed,
            "--teacher": teacher,
            "--unlabeled": unlabeled,
            "--dtype": dtype,
            "--force": force or None,
        }
        asked = DiffOptions(on, weight, max_churn, output, tuple(text or ()), allow_missing, device or "auto", variant, reading)
        asked.check(products, [name for name, value in fitting.items() if value is not None])
        diff_adapters(products, asked, as_json=as_json, talk=talk)
        return
    from catcli.commands.compare import Grid
    from catcli.commands.compare import compare as run
    from catcli.config import Recipe
    from catcli.errors import UsageError

    labeling = {"--weight": weight, "--max-churn": max_churn, "--allow-missing": allow_missing or None}
    labeling |= {"--variant": None if variant == "auto" else variant}
    if odd := [name for name, value in labeling.items() if value is not None]:
        raise UsageError(f"{', '.join(odd)}: of the rows of a catalog that change category between two adapters; name it with --on.")
    given = {
        "label": label,
        "text": tuple(text or ()),
        "group": group,
        "merge_labels": merge_labels,
        "per_category": per_category,
        "epochs": epochs,
        "split_seed": split_seed,
        "teacher": teacher,
        "unlabeled": unlabeled,
        "device": device,
        "dtype": dtype,
    }
    run(
        products,
        recipe=Recipe.start(recipe, given, repeated={"base": base}),
        grid=Grid(tuple(base or ()), tuple(method or ()), tuple(balance or ()), tuple(seed or ())),
        output=None if output is None else Path(output),
        force=force,
        reading=reading,
        as_json=as_json,
        talk=talk,
    )


@app.command(epilog="Examples:\n\n  catcli bench\n\n  catcli bench catalog.parquet --rows 20000 --against transformers")
@command
def bench(
    catalog: Annotated[
        list[str] | None, typer.Argument(metavar="[CATALOG]...", help="Rows to measure with; the adapter's held-out rows by default.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A folder, or a name in the store; the only one there by default.", metavar="FOLDER")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 4096,
    repeats: Annotated[int, typer.Option(min=1, help="How often each stage is timed, after once to warm up.")] = 5,
    against: Annotated[
        str | None, typer.Option(help="transformers: its text-classification pipeline over the same base, in the same run.", metavar="PEER")
    ] = None,
    device: DeviceOption = None,
    variant: VariantOption = "auto",
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """Rows a second on this machine: reading, tokenizing, the two models, writing, and all of it from file to file."""
    from catcli.commands.bench import bench as run

    run(
        catalog or [],
        adapter=adapter,
        rows=rows,
        repeats=repeats,
        against=against,
        device=device or "auto",
        variant=variant,
        as_json=as_json,
        talk=talk,
    )


@app.command(epilog="Example:\n\n  catcli demo && catcli report catcli-demo/adapters/products")
@command
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A new folder for its files.")] = Path("catcli-demo"),
    *,
    talk: Talk,
) -> None:
    """Fit, predict and report on a small made-up catalog that ships with catcli. Takes a minute or two."""
    from catcli.commands.demo import demo as run

    run(folder, talk=talk)


@app.command(epilog="Examples:\n\n  catcli clean\n\n  catcli clean exports/ --yes")
@command
def clean(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where runs were stopped; the working folder and the store by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed and not in use.")] = False,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """What stopped runs left, for the same lines to go on from: listed, and with --yes removed."""
    from catcli.commands.clean import clean as run

    run(folder, yes=yes, as_json=as_json, talk=talk)


@app.command(epilog="Example:\n\n  catcli doctor")
@command
def doctor(as_json: Json = False, *, talk: Talk) -> None:
    """What this machine has: processor, GPU, the embedded model, versions."""
    from catcli.commands.doctor import doctor as run

    run(as_json=as_json, talk=talk)


@app.command(epilog="Examples:\n\n  catcli recipes\n\n  catcli recipes gpt2-lora > mine.json && catcli fit products.csv --recipe mine.json")
@command
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one, as a file that --recipe takes.")] = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """The recipes that come with catcli, for 'fit --recipe NAME': the study's models and settings."""
    from catcli.commands.recipes import recipes as run

    run(name, as_json=as_json, talk=talk)


@store.command("list", epilog="Example:\n\n  catcli adapters list")
@command
def list_adapters(as_json: Json = False, *, talk: Talk) -> None:
    """The adapters of the store, by name."""
    from catcli.commands.adapters import list_adapters as run

    run(as_json=as_json, talk=talk)


@store.command("show", epilog="Example:\n\n  catcli adapters show products")
@command
def show_adapter(
    name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder, or a name in the store.")],
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """What an adapter is made of; every file is checked against its SHA-256."""
    from catcli.commands.adapters import show_adapter as run

    run(name, as_json=as_json, talk=talk)


@store.command("export", epilog="Example:\n\n  catcli adapters export products -o to-mail/products --without-rows")
@command
def export_adapter(
    name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder, or a name in the store.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The copy's folder.", metavar="FOLDER")],
    without_rows: Annotated[
        bool,
        typer.Option("--without-rows", help="Leave no text of a product in the copy: its held-out rows keep only logits and categories."),
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="Sign the copy with this private key (ed25519, PEM or OpenSSH).", metavar="KEY")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that is there.")] = False,
    *,
    talk: Talk,
) -> None:
    """Copy an adapter to hand it on, every file checked on the way."""
    from catcli.inference.adapter_copy import export_adapter as run

    run(name, output, without_rows=without_rows, key=sign, force=force, talk=talk)


@store.command("verify", epilog="Example:\n\n  catcli adapters verify from-mail/products --trusted-key shop.pub")
@command
def verify_adapter(
    name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder, or a name in the store.")],
    trusted_key: TrustedKey = None,
    as_json: Json = False,
    *,
    talk: Talk,
) -> None:
    """Check all of an adapter: every SHA-256, its models in a process with limits, its scores, and who signed it."""
    from catcli.commands.adapters import verify_adapter as run

    run(name, trusted_key=tuple(trusted_key or ()), as_json=as_json, talk=talk)


@store.command("remove", epilog="Example:\n\n  catcli adapters remove products")
@command
def remove_adapter(name: Annotated[str, typer.Argument(metavar="ADAPTER", help="A name in the store.")], *, talk: Talk) -> None:
    """Delete an adapter of the store."""
    from catcli.commands.adapters import remove_adapter as run

    run(name, talk=talk)


def main() -> None:
    """The command ``catcli``."""
    plain_tracebacks()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it cannot draw
    try:
        sys.exit(app(standalone_mode=False, prog_name="catcli"))
    except typer.TyperException as error:
        wrong_usage(error, "json" if asked_for_json_log(sys.argv[1:]) else "text")
