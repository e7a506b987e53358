"""The report in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from plotly.graph_objects import Figure, Scatter
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from stratoscope.results import Page, PageSection, Table, TableCell, render

HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-sync",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


def open_page(browser: webdriver.Chrome, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(render(page))
    browser.get(path.as_uri())
    num_figures = sum(len(section.figures) for section in page.sections)
    WebDriverWait(browser, 20).until(
        lambda b: len(b.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg .trace.scatter")) == num_figures
    )


def test_a_page_draws_its_plots_without_network_or_errors(browser: webdriver.Chrome, tmp_path: Path) -> None:
    figures = [Figure(Scatter(x=[0, 1], y=[1, 2])), Figure(Scatter(x=[0, 1], y=[2, 1]))]
    sections = [
        PageSection("One", ["A paragraph."], figures),
        PageSection("Two", tables=[Table(["a", "b"], [["1", "2"]])]),
    ]
    open_page(browser, Page("A title", "A summary.", sections, [("Run", "x")]), tmp_path)
    assert browser.title == "A title"
    assert [e.text for e in browser.find_elements(By.CSS_SELECTOR, "nav a")] == ["One", "Two", "Run"]
    browser.find_element(By.LINK_TEXT, "Two").click()
    assert browser.current_url.endswith("#section-2")
    assert browser.find_element(By.CSS_SELECTOR, "#section-2 td").text == "1"
    assert browser.get_log("browser") == []


def test_names_with_html_in_them_do_no_harm(browser: webdriver.Chrome, tmp_path: Path) -> None:
    figure = Figure(Scatter(x=[0, 1], y=[1, 2], name=HOSTILE), layout={"title": HOSTILE, "showlegend": True})
    table = Table([HOSTILE], [[HOSTILE, TableCell(HOSTILE, href="x.html", tone="bad")]], filtered=HOSTILE)
    section = PageSection(HOSTILE, [HOSTILE], [figure], [table])
    open_page(browser, Page(HOSTILE, HOSTILE, [section], [(HOSTILE, HOSTILE)]), tmp_path)
    assert browser.title == HOSTILE
    assert not browser.find_elements(By.CSS_SELECTOR, "body img")
    assert browser.get_log("browser") == []


def test_a_table_is_filtered_by_what_is_typed_and_its_cells_lead_elsewhere(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    (tmp_path / "other.html").write_text("<title>other</title>")
    rows = [["first", TableCell("✓ done", "other.html", "good")], ["second", TableCell("✗ failed", tone="bad")]]
    section = PageSection("Grid", tables=[Table(["model", "score"], rows, filtered="Filter models")])
    open_page(browser, Page("A title", "A summary.", [section]), tmp_path)
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("SECOND")
    shown = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#section-1 tbody tr") if row.is_displayed()]
    assert shown == ["second ✗ failed"]
    browser.find_element(By.CSS_SELECTOR, ".filter input").clear()
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("first")
    browser.find_element(By.LINK_TEXT, "✓ done").click()
    assert browser.title == "other"
    assert browser.get_log("browser") == []


def test_a_page_with_plots_is_small() -> None:
    figures = [Figure(Scatter(x=list(range(500)), y=list(range(500)))) for _ in range(20)]
    assert len(render(Page("A title", "A summary.", [PageSection("One", figures=figures)]))) < 3_000_000
