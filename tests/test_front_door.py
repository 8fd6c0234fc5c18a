"""catcli as shells and scripts meet it: exit codes, streams, signals, help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from conftest import SHELVES, Shop, catcli
from rich.progress import Progress

from catcli.cli.console import Console, _Speed
from catcli.reporting.tables import shortened

COMMANDS = [
    "fit",
    "predict",
    "report",
    "demo",
    "doctor",
    "adapters",
    "adapters list",
    "adapters show",
    "adapters remove",
    "adapters export",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_the_readme_knows(command: str, tmp_path: Path) -> None:
    shown = catcli(*command.split(), "--help", cwd=tmp_path, check=True).stdout
    if command != "adapters":
        assert "Example" in shown
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"catcli {command}" in readme


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    from catcli import __version__

    assert catcli("--version", cwd=tmp_path).stdout == f"catcli {__version__}\n"


def test_completion_is_there_for_bash(tmp_path: Path) -> None:
    shown = catcli(cwd=tmp_path, _CATCLI_COMPLETE="complete_bash", _TYPER_COMPLETE_ARGS="catcli re", COMP_WORDS="catcli re", COMP_CWORD="1")
    assert "report" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("fit", "offers.csv"), 1, "error: there is no file offers.csv; . holds 'products.csv'."),
        (
            ("fit", "products.csv", "--label", "categry"),
            1,
            "error: --label 'categry': products.csv has no such column (did you mean 'category'?);",
        ),
        (
            ("fit", "products.csv", "--rank", "0", "--epochs", "0"),
            2,
            "error: --rank 0: at least 1; --epochs 0: at least 1.",
        ),
        (
            ("fit", "products.csv", "--input-format", "xls"),
            2,
            "error: --input-format xls: choose one of csv, tsv,",
        ),
        (("predict", "products.csv", "-o", "out.xyz"), 2, "error: -o out.xyz: the ending names no format that catcli writes"),
        (("predict", "products.csv", "-o", "out.csv"), 1, "error: adapters holds no adapter; 'catcli fit products.csv' makes one"),
        (("predict", "products.csv"), 2, "error: missing option '-o' / '--output'; 'catcli predict --help' shows what there is."),
        (("report", "nothing"), 1, "error: there is no adapter 'nothing'; adapters holds none"),
        (("adapters", "remove", "../x"), 1, "error: there is no adapter '../x'"),
        (("nonsense",), 2, "error: no such command 'nonsense'; 'catcli --help' shows"),
        (("predict", "x.csv", "-o", "y.csv", "--top-k", "0"), 2, "error: --top-k: at least 1; 'catcli predict --help' shows"),
        (("fit", "products.csv", "--batch-size", "many"), 2, "error: --batch-size: a whole number; 'catcli fit --help' shows"),
    ],
)
def test_wrong_calls_get_a_sentence_and_their_code(tmp_path: Path, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    (tmp_path / "products.csv").write_text("title,category\nmug,Home\ndrill,Tools\n")
    result = catcli(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["products.csv"]


def test_a_report_fits_eighty_columns_has_every_section_and_talk_stays_on_stderr(shop: Shop) -> None:
    result = catcli("report", cwd=shop.folder, check=True)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    tables = [line.split() for line in lines]
    assert ["category", "rows", "prec.", "recall", "F1", "95", "%", "AUC", "AP"] in tables
    shelves = tuple(f" {shortened(shelf, 22)} " for shelf in SHELVES)
    assert sum(line.startswith(shelves) and line.rstrip()[-1].isdigit() for line in lines) >= len(SHELVES)
    for title in (
        "rows labeled right",
        "Scores, 95 % intervals",
        "the blend over the linear model alone",
        "Thresholds (predict --precision)",
        "calibration error of",
        "By category",
        "Parity with the saved adapter",
    ):
        assert title in result.stdout
    assert "0.9…" not in result.stdout
    assert result.stderr == "the newest adapter of adapters: small\n"


def test_json_is_one_object_on_stdout(shop: Shop, tmp_path: Path) -> None:
    told = json.loads(catcli("report", shop.adapter, "--json", cwd=tmp_path, check=True).stdout)
    assert told["blend"]["accuracy"] == shop.fitted.metrics.blend.accuracy.model_dump()
    done = json.loads(
        catcli("predict", shop.catalog, "-o", "out.csv", "--adapter", shop.adapter, "--json", cwd=tmp_path, check=True).stdout
    )
    assert (done["rows"], done["output"]) == (300, "out.csv")


def test_standard_input_and_output_are_a_pipe(shop: Shop, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "catcli", "predict", "-", "-o", "-", "--adapter", shop.adapter]
    with shop.catalog.open("rb") as rows:
        result = subprocess.run(command, stdin=rows, capture_output=True, check=True, cwd=tmp_path)
    (tmp_path / "out.csv").write_bytes(result.stdout)
    assert len(pl.read_csv(tmp_path / "out.csv")) == 300


def test_a_closed_pipe_ends_quietly(shop: Shop, tmp_path: Path) -> None:
    catalog = tmp_path / "long.csv"
    catalog.write_text("title,brand,description\n" + "".join(f"mug {number % 7},x,y\n" for number in range(60_000)))
    line = f"{sys.executable} -m catcli predict {catalog} -o - -q --adapter {shop.adapter} | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.splitlines() == ["title,brand,description,predicted_category,confidence", "0"]
    assert result.stderr == ""


@pytest.mark.slow
def test_a_log_that_nobody_reads_any_more_does_not_stop_the_work(shop: Shop, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for extra in ((), ("--log-format", "json")):
        line = [sys.executable, "-m", "catcli", "predict", str(shop.catalog), "-o", "out.csv", "--adapter", shop.adapter, *extra]
        assert subprocess.run(line, cwd=tmp_path, stderr=writing, check=False).returncode == 0
        assert (tmp_path / "out.csv").exists()
        (tmp_path / "out.csv").unlink()
    os.close(writing)


def test_a_pipe_whose_reader_goes_is_named(shop: Shop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    line = [sys.executable, "-m", "catcli", "predict", str(shop.catalog), "-o", "fifo", "--format", "csv", "--adapter", shop.adapter]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as run:
        (tmp_path / "fifo").open("rb").close()
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert "error: -o fifo: the reader closed it before the end" in said


def test_a_review_in_the_folder_that_is_replaced_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    line = ("predict", shop.catalog, "-o", "out/", "--adapter", shop.adapter, "--min-confidence", "0.9", "--review", "out/review.csv")
    ran = catcli(*line, cwd=tmp_path)
    assert ran.returncode == 2
    assert "lies in the folder out/, which is replaced as a whole" in " ".join(ran.stderr.split())


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")])
def test_a_signal_ends_with_a_sentence_and_leaves_nothing_half_written(
    shop: Shop, tmp_path: Path, number: int, code: int, word: str
) -> None:
    catalog = tmp_path / "long.csv"
    catalog.write_text("title,brand,description\n" + "".join(f"mug {row},x,y\n" for row in range(200_000)))
    command = [sys.executable, "-m", "catcli", "predict", str(catalog), "-o", "out.csv", "--adapter", shop.adapter]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.csv.*")):  # it has begun to write
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, talk = process.communicate(timeout=60)
    assert (process.returncode, f"error: {word}" in talk) == (code, True)
    left = {path.name for path in tmp_path.iterdir()} - {"long.csv"}
    assert left <= {".out.csv.catcli-parts"}  # where a shard was finished by then, it is kept, and said to be
    assert ("labeled rows are kept beside out.csv" in talk) == bool(left)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("report",), ("doctor",), ("adapters", "list"), ("adapters", "show", "small")])
def test_verbose_says_more_and_quiet_only_results(shop: Shop, command: tuple[str, ...]) -> None:
    plain, more, less = (catcli(*command, *flag, cwd=shop.folder, check=True) for flag in ((), ("-v",), ("-q",)))
    assert plain.stdout == more.stdout == less.stdout
    assert len(more.stderr) > len(plain.stderr)
    assert less.stderr == ""


def test_streams_that_cannot_be_used_get_a_sentence(shop: Shop, tmp_path: Path) -> None:
    start = f"{sys.executable} -m catcli"
    for line, sentence in (
        (f"{start} report {shop.adapter} --json > /dev/full", "error: standard output: No space left on device; fix that and"),
        (f"{start} predict {shop.catalog} -o - -q --adapter {shop.adapter} > /dev/full", "error: -o -: the disk is full; free some space"),
        (f"{start} predict - -o out.csv --adapter {shop.adapter} <&-", "error: standard input (-) is closed; pipe rows into it"),
        (f"{start} predict {'x' * 300}.csv -o out.csv --adapter {shop.adapter}", "File name too long"),
    ):
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
        assert sentence in result.stderr


def test_a_terminal_without_utf_8_shows_what_it_can(shop: Shop, tmp_path: Path) -> None:
    assert "Scores, 95 % intervals" in catcli("report", shop.adapter, cwd=tmp_path, check=True, PYTHONIOENCODING="ascii").stdout


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    broken = "import catcli.reporting.report as module\ndef broken(*a, **k): return 1 / 0\nmodule.report = broken\n"
    code = f"{broken}from catcli.cli.main import main\nmain()"
    result = subprocess.run([sys.executable, "-c", code, "report"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_predict_needs_no_more_memory_for_more_rows(shop: Shop, tmp_path: Path) -> None:
    import psutil

    peaks = []
    for rows in (20_000, 120_000):
        catalog = tmp_path / f"{rows}.parquet"
        titles = [f"mug number {row % 50} in blue" for row in range(rows)]
        pl.DataFrame({"title": titles, "brand": titles, "description": titles}).write_parquet(catalog, row_group_size=10_000)
        command = [
            sys.executable,
            "-m",
            "catcli",
            "predict",
            str(catalog),
            "-o",
            str(tmp_path / "out.parquet"),
            "--adapter",
            shop.adapter,
            "-q",
        ]
        with subprocess.Popen(command) as process:
            watched, peak = psutil.Process(process.pid), 0
            while process.poll() is None:
                try:
                    peak = max(peak, watched.memory_info().rss)
                except psutil.Error:
                    break
                time.sleep(0.02)
        assert process.wait() == 0
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 150 * 2**20


def test_results_go_to_standard_output_and_not_to_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a bar is shown, as on a terminal
    console = Console()
    with console.progress() as advance:
        advance("labeling", 1, 2)
        console.print("a result")
        console.print_json('{"rows": 2}')
        advance("labeling", 2, 2)
    shown = capsys.readouterr()
    assert shown.out == 'a result\n{"rows": 2}\n'
    assert "labeling" in shown.err


def test_the_pages_are_where_doctor_says(tmp_path: Path) -> None:
    facts = json.loads(catcli("doctor", "--json", cwd=tmp_path, check=True).stdout)
    assert (Path(facts["docs"]) / "internals.md").is_file()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("predict", "x.csv", "-o", "-", "--json", "--dry-run"), "--json and -o - would both write to standard output; give -o a file."),
        (("tune", "x.csv", "-o", ""), "-o: the name is empty; name a .json file."),
    ],
)
def test_more_wrong_usage_is_a_sentence(tmp_path: Path, line: tuple[str, ...], sentence: str) -> None:
    ran = catcli(*line, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (2, f"error: {sentence}\n")


def test_a_bar_counts_rows_and_a_stage_in_per_cent_does_not() -> None:
    bar = Progress()
    bar.add_task("labeling", total=200, completed=50)
    bar.add_task("linear models, %", total=100, completed=40)
    assert [_Speed().render(task).plain for task in bar.tasks] == ["50 rows", "40 of 100"]
