"""The report in a real browser."""

from pathlib import Path

from plotly.graph_objects import Figure, Scatter
from selenium import webdriver
from selenium.webdriver.common.by import By

from stratoscope.results import INK, Page, PageSection, Table, TableCell, render, style
from tests.pages import VIEWS, open_page, page_faults, unfold

HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


def show(browser: webdriver.Chrome, page: Page, tmp_path: Path) -> Path:
    """Open a page with all its sections unfolded."""
    path = tmp_path / "report.html"
    path.write_bytes(render(page))
    open_page(browser, path)
    unfold(browser, VIEWS[0])
    return path


def test_a_page_draws_its_plots_without_network_or_errors(browser: webdriver.Chrome, tmp_path: Path) -> None:
    figures = [Figure(Scatter(x=[0, 1], y=[1, 2])), Figure(Scatter(x=[0, 1], y=[2, 1]))]
    sections = [
        PageSection("One", ["A paragraph."], figures),
        PageSection("Two", tables=[Table(["a", "b"], [["1", "2"]])]),
    ]
    show(browser, Page("A title", "A summary.", sections, [("Run", "x")]), tmp_path)
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
    show(browser, Page(HOSTILE, HOSTILE, [section], [(HOSTILE, HOSTILE)]), tmp_path)
    assert browser.title == HOSTILE
    assert not browser.find_elements(By.CSS_SELECTOR, "body img")
    assert browser.get_log("browser") == []


def test_a_table_is_filtered_by_what_is_typed_and_its_cells_lead_elsewhere(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    (tmp_path / "other.html").write_text("<title>other</title>")
    rows = [["first", TableCell("✓ done", "other.html", "good")], ["second", TableCell("✗ failed", tone="bad")]]
    section = PageSection("Grid", tables=[Table(["model", "score"], rows, filtered="Filter models")])
    show(browser, Page("A title", "A summary.", [section]), tmp_path)
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("SECOND")
    shown = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#section-1 tbody tr") if row.is_displayed()]
    assert shown == ["second ✗ failed"]
    browser.find_element(By.CSS_SELECTOR, ".filter input").clear()
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("first")
    browser.find_element(By.LINK_TEXT, "✓ done").click()
    assert browser.title == "other"
    assert browser.get_log("browser") == []


def figure(y_title: str = "squared error, standardised") -> Figure:
    lines = [Scatter(x=[0, 1, 2], y=[1, i, 2], name=f"forecaster number {i}") for i in range(5)]
    drawn = Figure([*lines, Scatter(x=[0, 1, 2], y=[2, 1, 1], name="truth", line={"color": INK})])
    style(drawn, "level of noise", y_title, title="Errors of five forecasters")
    return drawn


def page_in_use() -> Page:
    """Return a page with everything that reports use."""
    rows = [["10", TableCell("✗ failed", tone="bad")], ["", "b, c"], ["9", TableCell("✓ done", "x.html", "good")]]
    table = Table(["layer", "AVSS"], rows, filtered="Filter layers", meanings=["Number of the layer.", ""])
    many = Table([f"column {i}" for i in range(12)], [[f"a longer cell {i}" for i in range(12)] for _ in range(30)])
    sections = [PageSection("Scores", ["AVSS at each tap; AVSS again."], [figure()], [table, many])]
    verdict = PageSection("Verdict", ["No difference could be shown with 24 questions."], [figure()])
    return Page("Six layers fine-tuned: no change beyond noise", "256 prompts.", sections, [("Run", "x")], verdict)


def test_a_page_has_no_faults_in_any_view(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(render(page_in_use()))
    assert page_faults(browser, path) == []


def test_faults_of_a_page_are_named(browser: webdriver.Chrome, tmp_path: Path) -> None:
    crowded = figure()
    crowded.update_layout(annotations=[{"x": 1, "y": 1, "text": f"annotation {i}"} for i in range(2)])
    verdict = PageSection("Verdict", ["A long sentence that says little. " * 150], [crowded, Figure()])
    content = render(Page("A title", "A summary.", [], verdict=verdict))
    pale = b"<p style='color: #ccc; width: 2000px; max-width: none'>pale</p>"
    pale += b"<script>console.error('broken')</script></main>"
    path = tmp_path / "report.html"
    path.write_bytes(content.replace(b"</main>", pale))
    faults = "\n".join(page_faults(browser, path))
    for fault in (
        "wide: the verdict ends at",
        "narrow: the page is",
        "'annotation 0' overlaps 'annotation 1'",
        "a figure has no data",
        "'pale' has a contrast of",
        "broken",
    ):
        assert fault in faults


def test_a_table_is_sorted_by_its_headers_and_copied(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, page_in_use(), tmp_path)
    header = browser.find_element(By.CSS_SELECTOR, "#section-1 th")
    orders = []
    for _ in range(2):
        header.find_element(By.TAG_NAME, "button").click()
        table = browser.find_element(By.CSS_SELECTOR, "#section-1 table")
        orders.append([cell.text for cell in table.find_elements(By.CSS_SELECTOR, "td:first-child")])
    assert orders == [["9", "10", ""], ["10", "9", ""]]
    assert header.get_attribute("aria-sort") == "descending"
    csv = browser.execute_script("return tableAsCsv(document.querySelector('#section-1 table'))")
    assert csv == 'layer,AVSS\n10,✗ failed\n9,✓ done\n,"b, c"\n'


def test_sections_are_folded_until_they_are_opened(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(render(page_in_use()))
    open_page(browser, path)
    section = browser.find_element(By.ID, "section-1")
    assert section.get_attribute("open") is None
    assert browser.find_element(By.CSS_SELECTOR, "#verdict .js-plotly-plot").is_displayed()
    browser.find_element(By.LINK_TEXT, "Scores").click()
    assert section.get_attribute("open")


def test_terms_have_a_definition_at_hand(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, page_in_use(), tmp_path)
    terms = browser.find_elements(By.CSS_SELECTOR, "#section-1 .term")
    assert [term.text for term in terms] == ["AVSS", "tap"]
    assert "divided by their sparsity" in (terms[0].get_attribute("title") or "")
    terms[0].click()
    definition = browser.find_element(By.ID, "term-avss")
    assert definition.is_displayed()
    assert definition.text == "AVSS"


def test_figures_are_readable_on_a_dark_page(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(render(page_in_use()))
    colours = []
    for view in (VIEWS[0], VIEWS[2]):
        open_page(browser, path, view)
        lines = browser.execute_script(
            "return [...document.querySelectorAll('#verdict .cartesianlayer .js-line')]"
            ".map((line) => getComputedStyle(line).stroke)"
        )
        colours.append(lines)
    assert colours[0][-1] == "rgb(29, 39, 51)"
    assert colours[1][-1] == "rgb(230, 233, 237)"
    assert colours[0][:-1] == colours[1][:-1]


def test_a_page_with_plots_is_small() -> None:
    figures = [Figure(Scatter(x=list(range(500)), y=list(range(500)))) for _ in range(20)]
    assert len(render(Page("A title", "A summary.", [PageSection("One", figures=figures)]))) < 3_000_000
