"""What a hard look at catcli found not to hold: each fact as a test that failed before."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from conftest import FIXTURE, catcli, small_shards, stopped_after
from corpus import workbook
from hypothesis import given, settings
from hypothesis import strategies as st
from test_places import run
from tiny import tiny_products

from catcli.adapter.folder import load_adapter
from catcli.cli.console import Console
from catcli.cli.lifecycle import command
from catcli.config import Recipe
from catcli.data.dataset.categories import Categories
from catcli.data.dataset.examples import Examples
from catcli.data.io.input_options import InputOptions
from catcli.data.io.parts import Parts
from catcli.evaluation.bootstrap import Outcomes, estimate_interval
from catcli.evaluation.calibration import BlendCalibration, log_losses
from catcli.evaluation.fit_metrics import Int8Decision
from catcli.evaluation.fold_roles import FoldRoles
from catcli.evaluation.metrics import Comparison, Estimate
from catcli.evaluation.selective import RISK, ProductSample, find_category_thresholds, products_needed
from catcli.export import parity
from catcli.inference import planning
from catcli.inference.known_labels import KnownLabels
from catcli.inference.labeler import encoder_logits
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.inference.session import Session
from catcli.inference.shards import ShardOptions
from catcli.inference.tokens import Tokenizer
from catcli.reporting import sentences
from catcli.training import loop
from catcli.training.checkpoint import Checkpoint
from catcli.training.encoder_training import EncoderTraining, _noted_rows
from catcli.training.fit import fit_blend
from catcli.training.grid_runs import GridRuns
from catcli.training.linear_training import LinearTraining
from catcli.wording import format_confidence

pytestmark = pytest.mark.slow

PREDICT = ("predict", "catalog.csv", "-o", "out.csv", "--adapter", FIXTURE, "--device", "cpu")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_products().write_csv(tmp_path / "products.csv")
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    return tmp_path


# --- encodings ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.jsonl"])
def test_one_bad_byte_does_not_make_a_file_another_encoding(shop: Path, name: str) -> None:
    rows = (["title"] if name.endswith("csv") else []) + ["größe mug"] * 200
    lines = [row if name.endswith("csv") else json.dumps({"title": row}, ensure_ascii=False) for row in rows]
    last = b"mug \xff" if name.endswith("csv") else b'{"title": "mug \xff"}'
    (shop / name).write_bytes("\n".join(lines).encode() + b"\n" + last + b"\n")
    line = ("predict", name, "-o", "out.csv", "--adapter", FIXTURE, "--device", "cpu")
    refused = run(*line)
    assert refused.exit_code == 1
    assert f"{name} is UTF-8 but for byte 0xff in line {len(lines) + 1}; export it again, pass --encoding utf-8:replace" in refused.stderr
    assert run(*line, "--encoding", "utf-8:replace").exit_code == 0
    assert (shop / "out.csv").read_text().splitlines()[-1].startswith("mug �,")
    assert run(*line, "--encoding", "cp1252").exit_code == 0


def test_a_file_of_windows_1252_is_read_as_one_all_the_same(shop: Path) -> None:
    (shop / "catalog.csv").write_bytes("title\ngröße mug\nänderung\n".encode("cp1252") * 50)
    told = run(*PREDICT)
    assert told.exit_code == 0
    assert "is not UTF-8 and is read as Windows-1252" in told.stderr


def test_the_line_of_a_byte_that_cannot_be_read_is_its_own(shop: Path) -> None:
    (shop / "catalog.csv").write_bytes(b"title\na\nb\nc\nd\xe9\ne\n")
    refused = run(*PREDICT, "--encoding", "utf-8")
    assert refused.exit_code == 1
    assert "catalog.csv is not utf-8: byte 0xe9 in line 5; pass another --encoding" in refused.stderr


def test_what_stands_behind_an_encoding_is_replace_or_nothing(shop: Path) -> None:
    refused = run(*PREDICT, "--encoding", "utf-8:ignore")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (2, 1)
    assert (shop / "catalog.csv").exists()


# --- options -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--require", "accuracy=95"], "--require accuracy=95: accuracy is a share from 0 to 1, such as accuracy=0.95."),
        (["--require", "macro_f1=2"], "--require macro_f1=2: macro_f1 is a share from 0 to 1, such as macro_f1=0.02."),
        (["--require", "accuracy=-1"], "--require accuracy=-1: accuracy is a share from 0 to 1."),
        (["--require", "log_loss=-1"], "--require log_loss=-1: log_loss is never below 0."),
        (["--time-budget", "infs"], "--time-budget infs: write a time above 0, such as 90s, 10m or 2h"),
        (["-q", "-v"], "-q and -v contradict one another; leave one out."),
    ],
)
def test_what_can_be_known_at_once_is_said_at_once(shop: Path, flags: list[str], said: str) -> None:
    refused = run("fit", "products.csv", *flags)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["catalog.csv", "products.csv"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["fit", ""], "PRODUCTS: the name is empty; write the name of something, or leave it out."),
        (["fit", "products.csv", "--label", ""], "--label: the name is empty"),
        (["fit", "products.csv", "--text", "title", "--text", ""], "--text: the name is empty"),
        (["fit", "products.csv", "--recipe", ""], "--recipe: the name is empty"),
        (["predict", "", "-o", "out/"], "CATALOG: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--adapter", ""], "--adapter: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--previous", ""], "--previous: the name is empty"),
        (["predict", "catalog.csv", "-o", "out.csv", "--format", ""], "--format: the name is empty"),
        (["report", ""], "ADAPTER: the name is empty"),
        (["report", "--on", ""], "--on: the name is empty"),
        (["adapters", "show", ""], "ADAPTER: the name is empty"),
        (["compare", "products.csv", "--base", ""], "--base: the name is empty"),
        (["tune", ""], "PRODUCTS: the name is empty"),
        (["bench", ""], "CATALOG: the name is empty"),
    ],
)
def test_an_empty_name_is_wrong_usage(shop: Path, line: list[str], said: str) -> None:
    """An empty variable of a script would have all of the folder read."""
    refused = run(*line)
    assert refused.exit_code == 2
    assert f"error: {said}" in refused.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["catalog.csv", "products.csv"]


def test_no_column_kept_is_an_answer(shop: Path) -> None:
    for keep in ("", ","):
        assert run(*PREDICT, "--keep", keep).exit_code == 0
        assert (shop / "out.csv").read_text().startswith("predicted_category,confidence\n")


def test_a_teacher_that_is_not_there_is_noticed_before_the_rows_are_read(shop: Path) -> None:
    (shop / "products.csv").write_text("this is read later")
    refused = run("fit", "products.csv", "--teacher", "nope")
    assert refused.exit_code == 1
    assert "there is no adapter 'nope'" in refused.stderr


def test_a_column_that_is_mapped_twice_is_named(shop: Path) -> None:
    (shop / "catalog.csv").write_text("title,name\nmug,drill\n")
    refused = run(*PREDICT, "--text", "title=title", "--text", "title=name")
    assert refused.exit_code == 2
    assert "--text title=name: 'title' is read from 'title' already; map each column once." in refused.stderr
    assert run(*PREDICT, "--text", "title=name", "--text", "title=name").exit_code == 0


def test_a_gate_that_looked_at_no_row_is_not_passed(shop: Path) -> None:
    (shop / "empty.csv").write_text("title\n")
    line = ("diff", FIXTURE, FIXTURE, "empty.csv", "--device", "cpu")
    refused = run(*line, "--max-churn", 0)
    assert refused.exit_code == 1
    assert "empty.csv has no rows, so --max-churn has nothing to check" in refused.stderr
    assert run(*line).exit_code == 0


@pytest.mark.parametrize("rank", ["1", ""])
def test_a_rank_without_a_world_is_none(shop: Path, rank: str) -> None:
    ran = catcli("fit", "none.csv", cwd=shop, RANK=rank)
    assert ran.returncode == 1
    assert "there is no file none.csv" in ran.stderr  # a helper of a first process would say nothing


@pytest.mark.parametrize("command", ["show", "verify"])
def test_the_folder_one_stands_in_is_an_adapter_like_another(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(FIXTURE)
    assert run("adapters", command, ".").exit_code == 0
    refused = run("report", ".", "--html", "")
    assert (refused.exit_code, refused.stderr.count("error: ")) == (1, 1)


# --- warnings ----------------------------------------------------------------------------------------------------------------------------


def test_quiet_keeps_warnings_and_strict_makes_errors_of_them(shop: Path) -> None:
    (shop / "catalog.csv").write_text("title\n" + "blue mug " * 30 + "\n")
    said = "1 of 1 different texts have more than the 16 tokens that are read; the rest is cut"
    quiet = run(*PREDICT, "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, f"warning: {said}.\n")
    (shop / "out.csv").write_text("what stood there")
    strict = run(*PREDICT, "--strict")
    assert strict.exit_code == 1
    assert f"error: {said} (--strict treats this as an error)." in strict.stderr
    assert (shop / "out.csv").read_text() == "what stood there"


# --- fingerprints and numbers ------------------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_options_is_the_same_in_every_process() -> None:
    code = "from catcli.inference.fingerprint import canonical_json; print(canonical_json([{'price', 'msrp', 'rrp'}, {'b': 1, 'a': 2}]))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in range(4)
    }
    assert told == {'[["msrp", "price", "rrp"], {"a": 2, "b": 1}]\n'}


@pytest.mark.parametrize("off", [0.0, 1e-7])
def test_an_interval_of_what_never_failed_has_an_end_to_doubt(off: float) -> None:
    right = estimate_interval(1 - off, np.full(100, 1 - off), 12)
    assert 0.7 < right.low < 0.75
    wrong = estimate_interval(off, np.full(100, off), 12)
    assert 0.25 < wrong.high < 0.3
    loss = estimate_interval(1.5, np.full(100, 1.5), 12)
    assert (loss.low, loss.high) == (1.5, 1.5)


def test_the_package_is_imported_from_a_folder_without_an_installation(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "catcli" / "__init__.py"
    (tmp_path / "catcli").mkdir()
    (tmp_path / "catcli" / "__init__.py").write_text(source.read_text())
    code = "import importlib.metadata as m; m.version = lambda name: (_ for _ in ()).throw(m.PackageNotFoundError(name))"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; import catcli; print(catcli.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.stdout == "0+unknown\n"


# --- signals and memory ------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_during_an_import_ends_as_at_any_other_moment(shop: Path, number: str, code: int) -> None:
    """An import can swallow what a signal raises in it, or take it for a library that is missing, as onnxruntime's does."""
    (shop / "slow_module.py").write_text(
        "import os, signal, sys\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    sum(range(1000))\n"
        "except BaseException:\n"
        "    raise ImportError('a library is missing')\n"
    )
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from catcli.cli.lifecycle import command\n"
        "import typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "@command\n"
        "def wait(*, console: object) -> None:\n"
        "    import slow_module, threading\n"
        "    threading.Event().wait(60)\n"
        "app()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=shop, timeout=120)
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.count("error: ") == 1
    assert "Traceback" not in ran.stderr


def test_an_echo_of_ctrl_c_does_not_end_the_process_before_its_sentence(shop: Path) -> None:
    program = (
        "import os, signal\n"
        "from catcli.cli.lifecycle import Signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "signals = Signals()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT); sum(range(1000))\n"
        "except KeyboardInterrupt:\n    signals.release()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('ended')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=shop, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "ended\n")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), ImportError("x.so: failed to map segment from shared object"), RuntimeError("can't start new thread")],
)
def test_too_little_memory_is_said_to_be_that(error: Exception) -> None:
    def body(*, console: Console) -> None:
        console.info("at work")
        raise error

    with pytest.raises(typer.Exit) as ended:
        command(body)(quiet=False, verbose=False, strict=False, log_format="text")
    assert ended.value.exit_code == 1


# --- places ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shop")
def test_an_ending_and_a_format_that_contradict_one_another_are_wrong_usage() -> None:
    refused = run("predict", "catalog.csv", "-o", "o.csv", "--adapter", FIXTURE, "--format", "parquet")
    assert refused.exit_code == 2
    assert "-o o.csv: its ending says csv, and --format parquet; rename it or leave --format out." in refused.stderr


def test_output_can_go_to_nowhere_and_come_from_dev_stdin(shop: Path) -> None:
    line = ("--adapter", FIXTURE, "--device", "cpu")
    assert catcli("predict", "catalog.csv", "-o", "/dev/null", "--format", "csv", *line, cwd=shop).returncode == 0
    with (shop / "catalog.csv").open() as stream:
        command_line = [sys.executable, "-m", "catcli", "predict", "/dev/stdin", "-o", "out.csv", *map(str, line)]
        assert subprocess.run(command_line, stdin=stream, check=False, cwd=shop, capture_output=True).returncode == 0
    assert (shop / "out.csv").read_text().count("\n") == 2


def test_an_adapter_is_not_exported_into_itself(shop: Path) -> None:
    shutil.copytree(FIXTURE, shop / "a")
    refused = run("adapters", "export", "a", "-o", "a/sub")
    assert refused.exit_code == 1
    assert "-o a/sub lies in the adapter that is exported; name a folder beside it." in refused.stderr


def test_a_name_of_the_same_letters_in_another_encoding_is_told(shop: Path) -> None:
    (shop / "Te\u0301le\u0301.csv").write_text("title\nmug\n")
    refused = run("predict", "T\u00e9l\u00e9.csv", "-o", "out.csv", "--adapter", FIXTURE)
    assert refused.exit_code == 1
    assert "'Te\\u0301le\\u0301.csv' has the same letters, encoded otherwise" in refused.stderr
    refused = run("predict", "nowhere/x.csv", "-o", "out.csv", "--adapter", FIXTURE)
    assert "there is no folder nowhere either" in refused.stderr


# --- recipes and reports -----------------------------------------------------------------------------------------------------------------


def test_what_suits_one_base_is_chosen_anew_for_another(shop: Path) -> None:
    (shop / "mine.json").write_text(Recipe(base="bert", lr=1e-4, max_tokens=64, pool="cls", epochs=3, merge_labels=True).model_dump_json())
    same = Recipe.start("mine.json", {"epochs": 2})
    assert (same.lr, same.max_tokens, same.pool) == (1e-4, 64, "cls")
    other = Recipe.start("mine.json", {"base": "roberta"})
    assert (other.lr, other.max_tokens, other.pool, other.targets, other.epochs) == (None, None, None, (), 3)
    assert Recipe.start("mine.json", {"base": "roberta", "lr": 2e-4}).lr == 2e-4
    assert Recipe.start("mine.json", {"method": "full"}).lr is None
    assert Recipe.start("mine.json", {"merge_labels": False}).merge_labels is False


def test_switches_of_a_recipe_can_be_turned_off(shop: Path) -> None:
    (shop / "mine.json").write_text(Recipe(refit=False, merge_labels=True).model_dump_json())
    seen: list[Recipe] = []

    def fit(*_: object, recipe: Recipe, **__: object) -> None:
        seen.append(recipe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catcli.cli.fit.run_fit", fit)
        assert run("fit", "products.csv", "--recipe", "mine.json").exit_code == 0
        assert run("fit", "products.csv", "--recipe", "mine.json", "--refit", "--no-merge-labels").exit_code == 0
    assert [(recipe.refit, recipe.merge_labels) for recipe in seen] == [(False, True), (True, False)]


@pytest.mark.parametrize(
    "flags", [["--variant", "fp32"], ["--device", "cpu"], ["--allow-missing"], ["--encoding", "utf-8"], ["--delimiter", ";"]]
)
def test_report_refuses_what_means_something_for_new_rows_only(flags: list[str]) -> None:
    refused = run("report", FIXTURE, *flags)
    assert refused.exit_code == 2
    assert f"{flags[0]} is about the rows that --on gives; add --on LABELED, or leave it out." in refused.stderr


@pytest.mark.usefixtures("shop")
def test_report_looks_at_the_page_s_folder_before_it_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.reporting.scoring.report_held_out", lambda _: pytest.fail("it was scored"))
    refused = run("report", FIXTURE, "--html", "nowhere/page.html")
    assert refused.exit_code == 1
    assert "--html nowhere/page.html: there is no folder nowhere" in refused.stderr
    refused = run("report", FIXTURE, "--variant", "nonsense")
    assert (refused.exit_code, "--variant nonsense: choose one of auto, fp32, fp16, int8." in refused.stderr) == (2, True)


@pytest.mark.usefixtures("shop")
def test_the_names_of_doctor_s_json_are_names() -> None:
    facts = json.loads(run("doctor", "--json").stdout)
    assert {"python", "processor", "gpu_of_torch", "gpu_of_onnxruntime", "embedded_model", "store", "catcli"} <= set(facts)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in facts)


def test_a_narrow_terminal_shows_all_digits(shop: Path) -> None:
    shown = catcli("report", FIXTURE, cwd=shop, check=True, COLUMNS="20").stdout
    assert "1.000" in shown
    assert "…" not in shown.split("precision")[0]


def test_help_shows_the_name_of_an_extra(shop: Path) -> None:
    assert "catcli[ray]" in catcli("predict", "--help", cwd=shop, check=True, COLUMNS="200").stdout


# --- runs that are stopped, and fits ------------------------------------------------------------------------------------------------------


def test_a_forgotten_resume_loses_no_labeled_row(shop: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    small_shards(monkeypatch, 64)
    rows = "\n".join(f"mug {number}" for number in range(400))
    (shop / "catalog.csv").write_text(f"title\n{rows}\n")
    asked = PredictOptions("out.csv", str(FIXTURE), device="cpu", workers=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "commit", stopped_after(2))
        predict(["catalog.csv"], asked)
    done = predict(["catalog.csv"], asked)
    assert done.resumed > 0
    assert f"going on after {done.resumed} rows that a stopped run had labeled" in caplog.text


def test_rows_of_another_fit_are_not_taken_up(shop: Path) -> None:
    (shop / "rows").write_text("24")
    assert _noted_rows(shop / "rows", "this fit") is None
    (shop / "rows").write_text(json.dumps({"rows": 24, "fit": "another fit"}))
    assert _noted_rows(shop / "rows", "this fit") is None
    assert _noted_rows(shop / "none", "this fit") is None
    (shop / "rows").write_text(json.dumps({"rows": 24, "fit": "this fit"}))
    assert _noted_rows(shop / "rows", "this fit") == 24


def test_every_process_of_a_training_makes_the_schedule_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own clock: the time that is left is agreed on as the seconds of a step are."""
    asked: list[float] = []

    def agreed(value: float) -> float:
        asked.append(value)
        return 60.0 if value > 1 else 0.5

    monkeypatch.setattr(loop, "broadcast_float", agreed)
    schedules = []
    for remaining in (100.0, 900.0):
        trainer = object.__new__(loop.Trainer)
        task = SimpleNamespace(train=np.arange(3200), seconds=remaining)
        vars(trainer).update(task=task, recipe=Recipe(batch_size=32, epochs=8), device="cpu", _log=lambda _: None)
        vars(trainer)["_time_step"] = lambda: 0.4
        schedules.append(trainer._schedule(None))
    assert schedules[0] == schedules[1]
    assert schedules[0].steps == 120
    assert asked == [0.4, 100.0, 0.4, 900.0]


# --- numbers -----------------------------------------------------------------------------------------------------------------------------


@given(st.floats(0.5, 1.0, width=32))
def test_a_threshold_is_shown_as_min_confidence_can_use_it(threshold: float) -> None:
    shown = format_confidence(threshold)
    assert np.float32(shown) == np.float32(threshold)
    assert len(shown) <= 12


def test_a_difference_is_told_where_interval_and_test_agree() -> None:
    def compared(p_value: float) -> Comparison:
        gain = Estimate(value=0.05, low=0.01, high=0.09)
        none = Estimate(value=0.01, low=-0.02, high=0.04)
        return Comparison(of="blend", against="linear", rows=200, accuracy=none, macro_f1=gain, better=11, worse=6, p_value=p_value)

    assert sentences.verdict(compared(0.66), "lora") == "These rows show no significant gain by LoRA."
    assert sentences.verdict(compared(0.01), "lora") == "A significant gain in macro F1."


def test_the_contract_takes_any_row_of_a_product_and_not_the_first() -> None:
    product = np.repeat(np.arange(500), 4)
    confidence = np.tile(np.array([0.9, 0.5, 0.6, 0.7], np.float32), 500)
    truth = np.zeros(2000, np.int64)
    outcomes = Outcomes(truth, truth, np.ones(2000, np.bool_), np.zeros(2000), confidence, product)
    judged = ProductSample.of(outcomes)
    counts = [int((judged.confidence == np.float32(value)).sum()) for value in (0.9, 0.5, 0.6, 0.7)]
    assert sum(counts) == 500
    assert all(90 < count < 160 for count in counts)
    assert np.array_equal(judged.confidence, ProductSample.of(outcomes).confidence)


def test_categories_are_tried_by_as_many_as_their_correction_can_show() -> None:
    needed = [products_needed(0.9, RISK / many) for many in (1, 2, 3)]
    counts = [needed[1] + 5, needed[1], needed[0]]  # two can be shown at half the risk each, three at a third cannot
    predicted = np.repeat(np.arange(3), counts)
    judged = ProductSample(np.full(len(predicted), 0.99, np.float32), np.ones(len(predicted), np.bool_), predicted)
    found = find_category_thresholds(judged, ["a", "b", "c"])
    assert [one.category for one in found] == ["a", "b"]
    assert all(one.thresholds[0].threshold is not None for one in found)


def test_the_blend_does_without_the_shares_that_lora_learned_from() -> None:
    """Of many rows LoRA takes a sample, which has relatively more of rare categories than all rows have."""
    truth = np.array([0, 1] * 20)
    logits = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    setup = SimpleNamespace(
        shares=np.array([0.99, 0.01]),
        labeled=SimpleNamespace(classes=truth),
        split=SimpleNamespace(choosing=np.arange(40)),
        recipe=Recipe(),
        without_rows=(),
    )
    encoder = SimpleNamespace(shares=np.array([0.5, 0.5]))
    linear = SimpleNamespace(logits=logits, out_of_fold=(logits[:0], truth[:0]))
    offset = fit_blend(setup, encoder, linear, {"fp32": logits}).blend.offset  # type: ignore[arg-type]  # as much of them as it looks at
    assert offset[0] == offset[1]


def test_folds_of_the_linear_model_keep_to_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catcli.training.linear_training.TIMED_LINEAR_ROWS", 40)
    frame = tiny_products()
    classes = Categories.of(frame["category"].to_list()).numbers(frame["category"].to_list())
    rows = Examples.of(frame["title"].to_list(), classes)
    setup = SimpleNamespace(
        rows=rows,
        split=SimpleNamespace(train=np.arange(len(frame)), validation=np.arange(10)),
        labeled=SimpleNamespace(keys=frame["title"].to_list(), taught=0),
        names=rows.take(np.arange(0)),
        texts_without_rows=[],
        class_count=int(classes.max()) + 1,
        recipe=Recipe(),
        budget=SimpleNamespace(linear_speed=1.0, remaining=1.0),
    )
    assert len(frame) > 40
    assert len(LinearTraining(setup).cross_fit()[1]) <= 40  # type: ignore[arg-type]  # as much of a setup as it looks at


# --- an earlier output -------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=60), max_size=8))
def test_of_texts_that_come_again_an_earlier_output_has_the_first(batches: list[list[tuple[int, int]]]) -> None:
    hashes = [np.array([number * 2**58 + number for number, _ in rows], np.uint64) for rows in batches]
    classes = [np.array([label for _, label in rows], np.int32) for rows in batches]
    previous = KnownLabels.of((one, other, other.astype(np.float32)) for one, other in zip(hashes, classes, strict=True))
    first: dict[int, int] = {}
    for number, label in itertools.chain.from_iterable(batches):
        first.setdefault(number, label)
    assert previous.hashes.tolist() == sorted(number * 2**58 + number for number in first)
    assert previous.find(previous.hashes).tolist() == list(range(len(previous)))
    assert previous.classes[:, 0].tolist() == [first[number] for number in sorted(first)]


def test_an_earlier_output_takes_memory_by_its_different_texts() -> None:
    program = (
        "import numpy as np\n"
        "from catcli.inference.known_labels import KnownLabels\n"
        "from catcli.memory import peak_memory\n"
        "different = 500_000\n"
        "def rows(times):\n"
        "    for number in range(times * 10):\n"
        "        start = number % 10 * different // 10\n"
        "        texts = np.arange(start, start + different // 10, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)\n"
        "        yield texts, np.zeros(len(texts), np.int32), np.zeros(len(texts), np.float32)\n"
        "KnownLabels.of(rows(1))\n"
        "before = peak_memory()\n"
        "assert len(KnownLabels.of(rows(20))) == different\n"
        "print((peak_memory() - before) / different)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 40  # bytes a different text, of which each came twenty times


def test_a_workbook_with_odd_columns_says_nothing_beside_the_log(shop: Path) -> None:
    pytest.importorskip("fastexcel")
    letters = [("A", "title"), ("B", "price"), ("C", "empty"), ("D", "odd")]
    head = "".join(f"<c r='{letter}1' t='inlineStr'><is><t>{name}</t></is></c>" for letter, name in letters)
    rows = "".join(
        f"<row r='{row}'><c r='A{row}' t='inlineStr'><is><t>mug {row}</t></is></c><c r='D{row}' t='e'><v>#N/A</v></c></row>"
        for row in range(2, 6)
    )
    (shop / "catalog.xlsx").write_bytes(workbook(f"<row r='1'>{head}</row>{rows}"))
    ran = catcli("predict", "catalog.xlsx", "-o", "out.csv", "--adapter", FIXTURE, "-q", "--log-format", "json", cwd=shop)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# --- devices and children ----------------------------------------------------------------------------------------------------------------


def test_a_fit_of_compare_logs_through_the_run_that_began_it(shop: Path, caplog: pytest.LogCaptureFixture) -> None:
    (shop / "latin.csv").write_bytes("title,category\ngröße,Mugs\nänderung,Mugs\n".encode("cp1252"))
    runs = GridRuns(shop / "compared", ["latin.csv"], InputOptions(), "")
    failure = runs._run(Recipe(), shop / "made", resume=False)
    assert failure is not None
    assert "are of one category" in failure.why
    assert "is not UTF-8 and is read as Windows-1252" in caplog.text


@pytest.mark.usefixtures("shop")
def test_a_device_that_fails_in_a_search_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("catcli.training.search.Search.run", fails)
    refused = run("tune", "products.csv", "--trials", "1", "--folds", "2")
    assert refused.exit_code == 1
    assert "the GPU failed (CUDA error" in refused.stderr
    assert "The trials that are done are kept: the same command with --resume goes on." in refused.stderr


def test_the_start_of_cuda_is_no_part_of_what_features_take() -> None:
    counts: list[int] = []
    rows = Examples.of(["mug", "drill"] * 200, np.array([0, 1] * 200))
    for device, expected in (("cuda", [1, 1, 256]), ("cpu", [1, 256])):
        budget = SimpleNamespace(remaining=50.0, load_seconds=1.0, feature_speed=1.0)
        setup = SimpleNamespace(
            rows=rows, recipe=Recipe(time_budget=60.0), teacher=None, budget=budget, device=SimpleNamespace(type=device)
        )
        training = EncoderTraining(setup)  # type: ignore[arg-type]  # as much of a setup as it looks at
        vars(training)["features"] = lambda examples, _: counts.append(len(examples))
        training.affordable_rows(np.arange(400))
        assert counts == expected
        counts.clear()


@pytest.mark.parametrize(("alike", "provider"), [(1.0, "CPUExecutionProvider"), (0.5, "CUDAExecutionProvider")])
def test_what_became_of_fp16_is_said(shop: Path, monkeypatch: pytest.MonkeyPatch, alike: float, provider: str) -> None:
    shutil.copytree(FIXTURE, shop / "made")
    adapter = load_adapter(shop / "made")
    tokenizer = Tokenizer.load(shop / "made" / "tokenizer.json", adapter.manifest.max_tokens, adapter.manifest.pad_id)
    texts = ["blue mug", "drill 18V"]
    logits = encoder_logits(tokenizer, Session(shop / "made" / "model.onnx", "cpu"), texts)
    quantized = Int8Decision(kept=False, reason="not tried", speedup=None)
    exported = parity.ExportedModel({"fp32": logits}, ["a text"], {"fp32": logits}, (), quantized, 0)
    monkeypatch.setattr(parity, "has_cuda", lambda: True)
    if provider == "CUDAExecutionProvider":
        monkeypatch.setattr(parity, "CUDA_PROVIDER", "CPUExecutionProvider")  # as if the session had got it
    found = parity.add_fp16(exported, tokenizer, texts, shop / "made", lambda *_: alike).fp16
    assert found is not None
    wanted = "the same category in 50.00% of rows, below 99%" if alike < 1 else "a session does not get the GPU"
    assert (found.kept, wanted in found.reason) == (False, True)
    assert not (shop / "made" / "model.fp16.onnx").exists()


def test_a_damaged_checkpoint_is_none(shop: Path) -> None:
    checkpoint = Checkpoint(shop / "state.safetensors", "this fit")
    for content in (b"", b"damaged", b"\xff" * 100):
        checkpoint.file.write_bytes(content)
        assert checkpoint.load() is None


@given(st.floats(0.5, 1.0, width=32))
def test_a_row_at_the_threshold_that_is_shown_is_accepted(confidence: float) -> None:
    plan = planning.LabelingPlan(("title",), min_confidence=float(format_confidence(confidence)))
    assert np.float32(confidence) >= ShardOptions(("a", "b"), plan).thresholds[0]


def test_a_terminal_that_was_closed_does_not_change_the_exit_code(shop: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "catcli", "predict", "none.csv", "-o", "out.csv", "--adapter", str(FIXTURE)]
    with subprocess.Popen(line, cwd=shop, stderr=theirs, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        os.close(theirs)
        os.close(ours)
        assert running.wait(60) == 1


def test_the_best_of_several_models_is_chosen_by_rows_that_did_not_weigh_it() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 60)
    linear = random.normal(size=(60, 5)).astype(np.float32)
    noise = random.normal(size=(60, 5)).astype(np.float32)
    blending = BlendCalibration.fit({"fp32": noise}, linear, truth, np.full(5, 0.2))
    in_sample = Outcomes.of(blending.probabilities(noise, linear, "fp32"), truth, np.arange(60)).point.metrics["log_loss"][0]

    def loss(lora: np.ndarray, halves: np.ndarray) -> float:
        return float(log_losses(blending.cross_fitted(lora, linear, truth, FoldRoles.of(halves))["blend"], truth).mean())

    halves = np.arange(60) % 2
    assert loss(noise, halves) > in_sample
    assert loss(noise + 8 * np.eye(5, dtype=np.float32)[truth], halves) < loss(noise, halves) / 2
    assert np.isfinite(loss(noise, np.zeros(60, np.int64)))  # one product alone
