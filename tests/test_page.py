"""The HTML page in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SHELVES, Shop, catcli
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from catcli.evaluation.blend import softmax
from catcli.evaluation.bootstrap import Outcomes
from catcli.evaluation.report_data import FitReport
from catcli.evaluation.scores import score_model
from catcli.reporting.report_page import report_page
from catcli.reporting.scoring import add_examples, report_held_out

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]

EVIL = '</script><script>document.title = "taken"</script><b>Mugs'
"""A category's name that means harm."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a model that errs, with a category and with titles that mean harm."""
    view = report_held_out(shop.fitted.adapter)
    assert isinstance(view.report, FitReport)
    noise = np.random.default_rng(0).normal(0, 4, view.probabilities.shape)
    probabilities = softmax((np.log(np.maximum(view.probabilities, 1e-9)) + noise).astype(np.float32))
    outcomes = Outcomes.of(probabilities, view.outcomes.truth, view.outcomes.product)
    texts = [f"{text} <script>document.title = 'taken'</script>" for text in view.texts]
    blend = add_examples(score_model(probabilities, outcomes, view.names), outcomes, view.names, texts)
    told = view.report.model_copy(update={"blend": blend})
    whole = told.model_dump_json().replace(json.dumps(SHELVES[3], ensure_ascii=False)[1:-1], json.dumps(EVIL)[1:-1])
    names = [EVIL if name == SHELVES[3] else name for name in view.names]
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(
        report_page("<i>shop</i>", FitReport.model_validate_json(whole), names, texts, probabilities, outcomes), encoding="utf-8"
    )
    return file


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


def drawn(browser: webdriver.Chrome, *plots: str) -> None:
    """Bring plots into view and wait until each is there."""
    for plot in plots:
        browser.execute_script(f"document.getElementById('{plot}').scrollIntoView({{behavior: 'instant'}})")
        until(lambda plot=plot: browser.find_elements(By.CSS_SELECTOR, f"#{plot} svg.main-svg"))  # type: ignore[misc]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the page did not get there"
        time.sleep(0.05)


PLOTS = ("coverage-plot", "calibration-plot", "roc-plot", "pr-plot", "matrix-plot")


def test_nothing_is_loaded_from_elsewhere_and_the_console_is_silent(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    drawn(browser, *PLOTS)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "blob:")) and url != report.as_uri()] == []
    assert browser.get_log("browser") == []


def test_product_text_is_data(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    drawn(browser, *PLOTS)
    assert browser.title == "<i>shop</i> · catcli report"
    assert browser.find_element(By.TAG_NAME, "h1").text == "<i>shop</i>"
    assert "<script>document.title = 'taken'</script>" in browser.find_element(By.ID, "errors").text
    names = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#by-category tbody th")]
    assert EVIL in names
    assert [option.text for option in browser.find_elements(By.CSS_SELECTOR, "#category option") if "taken" in option.text] == [EVIL]


def cells(browser: webdriver.Chrome, column: int) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"#by-category tbody tr:not([hidden]) > :nth-child({column})")]


def test_the_table_sorts_and_filters(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    heads = browser.find_elements(By.CSS_SELECTOR, "#by-category thead button")
    heads[4].send_keys(Keys.ENTER)
    scores = [float(cell) for cell in cells(browser, 5)]
    assert scores == sorted(scores, reverse=True)
    heads[4].send_keys(Keys.ENTER)
    assert [float(cell) for cell in cells(browser, 5)] == sorted(scores)
    assert browser.find_elements(By.CSS_SELECTOR, "#by-category thead th")[4].get_attribute("aria-sort") == "ascending"
    heads[0].send_keys(Keys.SPACE)
    assert cells(browser, 1) == sorted(cells(browser, 1), key=str.lower)
    browser.find_element(By.ID, "filter").send_keys("COFFEE")
    assert cells(browser, 1) == ["Grocery > Drinks > Coffee"]
    assert browser.find_element(By.ID, "count").text == "1 of 4 categories"


def test_the_slider_reads_off_threshold_precision_and_share_by_keyboard(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    drawn(browser, "coverage-plot")
    slider, reading = browser.find_element(By.ID, "cutoff"), browser.find_element(By.ID, "reading")
    slider.send_keys(Keys.END)
    matched = re.fullmatch(
        r"confidence from (\d\.\d+): 100\.0 % of rows accepted, (\d+\.\d) % of them right \((\d+) of (\d+) wrong\)", reading.text
    )
    assert matched, reading.text
    everything = float(matched[2])
    assert everything == pytest.approx(100 * (1 - int(matched[3]) / int(matched[4])), abs=0.06)
    slider.send_keys(Keys.HOME)
    assert reading.text != matched[0]
    assert slider.get_attribute("aria-valuetext") == reading.text
    for _ in range(3):
        slider.send_keys(Keys.PAGE_UP)
    share = re.search(r"([\d.]+) % of rows", reading.text)
    assert share
    assert 0 < float(share[1]) <= 31


def test_choosing_another_category_draws_its_curves(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    drawn(browser, "roc-plot", "pr-plot", "matrix-plot")
    before = (
        browser.find_element(By.CSS_SELECTOR, "#roc-plot .scatterlayer").get_attribute("innerHTML"),
        browser.find_element(By.ID, "areas").text,
    )
    chooser = browser.find_element(By.ID, "category")
    chooser.send_keys(Keys.ARROW_DOWN)
    until(lambda: browser.find_element(By.ID, "areas").text != before[1])
    assert browser.find_element(By.CSS_SELECTOR, "#roc-plot .scatterlayer").get_attribute("innerHTML") != before[0]


def test_everything_can_be_reached_by_keyboard(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    reached = set()
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.add(active.get_attribute("id") or active.text)
    assert {"Skip to the report", "Overview", "cutoff", "filter", "category", "which", "precision"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways_in_either_theme(report: Path, browser: webdriver.Chrome, scheme: str) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(report.as_uri())
    drawn(browser, *PLOTS)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")
    ink = browser.find_element(By.CSS_SELECTOR, "#coverage-plot .xtick text").value_of_css_property("fill")
    assert ink == ("rgb(26, 32, 39)" if scheme == "light" else "rgb(232, 236, 240)")


def test_the_command_writes_it_whole_and_small_enough_to_mail(shop: Shop, tmp_path: Path) -> None:
    ran = catcli("report", shop.adapter, "--html", "report.html", cwd=tmp_path, check=True)
    assert "written: report.html" in ran.stderr
    assert (tmp_path / "report.html").stat().st_size < 8_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    missing = catcli("report", shop.adapter, "--html", "no/report.html", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.strip() == "error: --html no/report.html: there is no folder no; make it with 'mkdir -p no'."


# --- the page of a comparison --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two methods and the linear model, a shelf's name meaning harm."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "products.csv").write_text(shop.products.read_text().replace(SHELVES[3], '"' + EVIL.replace('"', '""') + '"'))
    options = ("--epochs", "1", "--device", "cpu", "--method", "lora", "--method", "head", "--method", "linear")
    catcli("compare", "products.csv", "-o", "all", *options, cwd=folder, check=True)
    return folder / "all" / "compare.html"


def test_a_comparison_draws_its_figures_and_loads_nothing(browser: webdriver.Chrome, comparison: Path) -> None:
    browser.get(comparison.as_uri())
    drawn(browser, "bars-plot", "roc-plot", "matrix-plot")
    assert browser.title == "products · catcli compare"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#bars-plot .barlayer .trace")) == 3
    assert len(browser.find_elements(By.CSS_SELECTOR, "#roc-plot .scatterlayer .trace")) == 4  # chance and three models
    assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#models tbody th")] == ["minilm lora", "minilm head", "linear"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#pairs tbody tr")) == 3
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    loaded = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in loaded if not url.startswith(("data:", "blob:"))} == {comparison.as_uri()}
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_every_model_shows_its_own_confusions_and_every_category_its_curves(browser: webdriver.Chrome, comparison: Path) -> None:
    browser.get(comparison.as_uri())
    drawn(browser, "roc-plot", "matrix-plot")
    cells = (
        "return document.getElementById('matrix-plot').data[0].text.flat().filter((one) => one !== '')"
        ".reduce((sum, one) => sum + Number(one), 0)"
    )
    data = json.loads(browser.execute_script("return document.getElementById('data').textContent"))
    for number, model in enumerate(data["models"]):
        Select(browser.find_element(By.ID, "model")).select_by_value(str(number))
        assert browser.execute_script(cells) == sum(rows for _, _, rows in model["pairs"])
    chooser = Select(browser.find_element(By.ID, "category"))
    assert EVIL in [option.text for option in chooser.options]
    for place, option in enumerate([option.get_attribute("value") or "" for option in chooser.options]):
        chooser.select_by_index(place)
        told = " · ".join(f"{model['name']} {model['areas'][option]:.3f}" for model in data["models"])
        assert browser.find_element(By.ID, "areas").text == told
