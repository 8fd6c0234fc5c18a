"""Text of strangers: spreadsheets run none of it, terminals obey none of it, pages show it as what it is."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import FIXTURE, catcli, fit
from small_bases import save_base
from tiny import tiny_products

from catcli.cli.console import Console, PlainConsole
from catcli.config import Recipe
from catcli.data.io.csv_cells import escape_formulas
from catcli.errors import ProductsError, UsageError
from catcli.inference.predict import predict
from catcli.inference.predict_options import PredictOptions
from catcli.logs import LOGGER
from catcli.reporting.report import report
from catcli.reporting.report_options import ReportOptions as Reporting

FORMULAS = ["=1+1", "+49 30 1234", "-2+3", "@SUM(A1)", "\t=1+1", "  =1+1", "mug;=1+1", "mug\n=1+1", "＝1+1", '=HYPERLINK("http://x","mug")']
HARMLESS = ["-5.00", "+1", "1e-5", "-12 %", "1,299.00", "mug - blue", "a=b", "info@shop.example", "", '55" TV']
CONTROLS = "\x1b[31mred\x1b[0m \x07bell \x9b2Jclear \u202eback\u202c \x00nul \x7fdel"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def labeled(folder: Path, **options: object) -> Path:
    """A catalog of formulas and control codes, labeled."""
    titles = [*FORMULAS, *HARMLESS, CONTROLS]
    frame = pl.DataFrame({"title": titles, "=note": titles[::-1], "price": [-1.5] * len(titles)})
    frame = frame.with_columns(kind=pl.col("title").cast(pl.Categorical))
    frame.write_parquet(folder / "catalog.parquet")
    out = folder / str(options.pop("name", "out.csv"))
    predict([str(folder / "catalog.parquet")], PredictOptions(str(out), str(FIXTURE), device="cpu", **options))  # type: ignore[arg-type]
    return out


def test_no_cell_of_safe_csv_is_a_formula_and_no_number_is_changed(tmp_path: Path) -> None:
    with labeled(tmp_path, safe_csv=True).open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["title", "'=note", "price", "kind", "predicted_category", "confidence"]
    cells = [row[column] for row in rows for column in (0, 1, 3)]
    assert [cell for cell in cells if re.match(r"\s*[=+\-@＝]", cell) and cell not in HARMLESS] == []
    assert [row[0] for row in rows][: len(FORMULAS)] == [
        *("'=1+1", "'+49 30 1234", "'-2+3", "'@SUM(A1)", "\t'=1+1", "  '=1+1", "mug;'=1+1", "mug\n'=1+1", "'＝1+1"),
        """'=HYPERLINK("http://x","mug")""",
    ]
    assert [row[0] for row in rows][len(FORMULAS) : -1] == HARMLESS
    assert {row[2] for row in rows} == {"-1.5"}


def test_without_safe_csv_every_cell_is_what_it_was(tmp_path: Path) -> None:
    with labeled(tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["title"] for row in rows] == [*FORMULAS, *HARMLESS, CONTROLS]


def test_safe_csv_is_of_csv_alone_and_reaches_the_review(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--safe-csv keeps formulas out of CSV and TSV; parquet has none: leave it out"):
        labeled(tmp_path, name="out.parquet", safe_csv=True)
    review = tmp_path / "review.csv"
    labeled(tmp_path, name="out.parquet", safe_csv=True, review=str(review), min_confidence=1.0)
    assert "'=HYPERLINK" in review.read_text()


def test_two_columns_stay_two_where_their_safe_names_are_one() -> None:
    assert escape_formulas(pl.DataFrame({"=a": ["1"], "'=a": ["2"]})).columns == ["'=a", "''=a"]


def test_a_console_draws_no_control_code_of_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.attached():
        LOGGER.info(CONTROLS)
        LOGGER.warning(CONTROLS)
    console.error(CONTROLS, 1)
    console.print(CONTROLS)
    console.print_json(json.dumps({"title": CONTROLS}, ensure_ascii=False))
    written = capsys.readouterr()
    assert OBEYED.findall(written.out + written.err) == []
    assert json.loads(written.out.splitlines()[-1]) == {"title": CONTROLS}


def test_letters_and_emoji_of_every_language_are_drawn_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["می‌خواهم", "כוס קפה", "قهوة", "👩‍👩‍👧 🏳️‍🌈", "ｶﾞｷﾞ", "नमस्ते", "e\u0301"]
    for text in texts:
        PlainConsole().print(text, soft_wrap=True)
    assert capsys.readouterr().out.splitlines() == texts


def test_an_adapter_s_own_names_do_not_move_the_cursor(tmp_path: Path) -> None:
    folder = tmp_path / "mailed"
    shutil.copytree(FIXTURE, folder)
    for name in ("adapter.json", "metrics.json"):
        (folder / name).write_text((folder / name).read_text().replace('"Mugs"', json.dumps("Mugs" + CONTROLS)))
    told = json.loads((folder / "adapter.json").read_text())
    from catcli.adapter.folder import file_sha256

    frame = pl.read_parquet(folder / "heldout.parquet")
    frame.with_columns(category=pl.col("category").replace("Mugs", "Mugs" + CONTROLS)).write_parquet(folder / "heldout.parquet")
    told["files"] |= {name: file_sha256(folder / name) for name in ("metrics.json", "heldout.parquet")}
    told["versions"]["catcli"] = CONTROLS
    (folder / "adapter.json").write_text(json.dumps(told))
    for line in (["report", folder], ["report", folder, "--json"], ["adapters", "show", folder, "-v"], ["adapters", "list"]):
        ran = catcli(*line, cwd=tmp_path, check=True, CATCLI_ADAPTERS=str(tmp_path))
        assert OBEYED.findall(ran.stdout + ran.stderr) == [], line
        assert "Mugs" in ran.stdout or line[0] == "adapters"
    page = tmp_path / "report.html"
    catcli("report", folder, "--html", page, cwd=tmp_path, check=True)
    assert OBEYED.findall(page.read_text().split("plotly.js v")[0]) == []


def test_a_terminal_obeys_no_title_and_a_pipe_gets_every_byte(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text(f"title\nmug {CONTROLS.replace(chr(0), '')}\n", encoding="utf-8")
    command = [sys.executable, "-m", "catcli", "predict", "catalog.csv", "-o", "-", "-q", "--adapter", str(FIXTURE)]
    piped = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout.decode()
    assert "\x1b[31mred" in piped
    here, there = pty.openpty()
    plain = {**os.environ, "TERM": "dumb"}  # without our own colors
    with subprocess.Popen(command, cwd=tmp_path, stdout=there, stderr=there, close_fds=True, env=plain) as process:
        os.close(there)
        seen = b""
        while True:
            try:
                block = os.read(here, 65536)
            except OSError:  # the other end was closed
                break
            if not block:
                break
            seen += block
        assert process.wait() == 0
    os.close(here)
    shown = seen.decode().replace("\r\n", "\n")
    assert OBEYED.findall(shown) == []
    assert "mug �[31mred�[0m" in shown


def test_the_model_card_shows_names_of_columns_as_what_they_are(tmp_path: Path) -> None:
    title = "ti`tle <img src=x onerror=alert(1)> [link](http://evil) \x1b[31m\u202e"
    tiny_products().rename({"title": title}).write_csv(tmp_path / "products.csv")
    save_base("bert", tmp_path / "base")
    recipe = Recipe(base=str(tmp_path / "base"), epochs=1, rank=2, device="cpu", refit=False, label="category", text=(title,))
    made = fit([str(tmp_path / "products.csv")], recipe=recipe, output=tmp_path / "<b>made")
    card = (made.adapter.folder / "README.md").read_text()
    assert not OBEYED.search(card)
    assert "`ti'tle <img src=x onerror=alert(1)> [link](http://evil) �[31m�`" in card  # between backticks nothing is markup
    assert "# \\<b\\>made\n" in card


def test_a_page_may_load_nothing_and_send_nothing(tmp_path: Path) -> None:
    report([str(FIXTURE)], Reporting(html=tmp_path / "page.html"))
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', (tmp_path / "page.html").read_text())
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert {name: rules[name] for name in ("default-src", "base-uri", "form-action")} == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_a_password_in_an_endpoint_is_not_printed() -> None:
    settings = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "z", "AWS_ALLOW_HTTP": "true"}
    code = (
        "from catcli.data.io import buckets\n"
        "from catcli.errors import CatcliError\n"
        "buckets.RETRY.update(max_retries=0)\n"
        "try: buckets.find_object('s3://shop/a.csv')\n"
        "except CatcliError as error: print(error)\n"
    )
    settings |= {"AWS_ENDPOINT_URL": "http://user:hunter2@127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **settings})
    assert "s3://shop/a.csv cannot be asked" in ran.stdout, ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr


def test_a_link_that_leads_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    private, catalog = tmp_path / "private", tmp_path / "catalog"
    for folder in (private, catalog):
        folder.mkdir()
        (folder / f"{folder.name}.csv").write_text("title\nblue mug\n")
    (catalog / "same.csv").symlink_to("catalog.csv")
    asked = PredictOptions(f"{tmp_path / 'out'}/", str(FIXTURE), device="cpu")
    assert predict([str(catalog)], asked).rows == 2
    (catalog / "orders.csv").symlink_to("../private/private.csv")
    with pytest.raises(
        ProductsError, match=r"holds the link orders\.csv, which leads out of it to \.\./private/private\.csv; name that file"
    ):
        predict([str(catalog)], asked)
    (catalog / "orders.csv").unlink()
    (catalog / "more").symlink_to("../private")
    with pytest.raises(ProductsError, match="holds the link more, which leads out of it"):
        predict([str(catalog)], asked)
    assert predict([str(private / "private.csv")], PredictOptions(str(tmp_path / "x.csv"), str(FIXTURE), device="cpu")).rows == 1
