"""Report pages in a real browser: on a wide and a narrow screen, on a dark background, and on paper."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

MAX_BYTES = 3_000_000
FIRST_SCREEN = 900
"""Pixels within which the verdict must end, with its picture."""
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")

VERDICT = By.ID, "verdict"
FIND_FAULTS = (Path(__file__).parent / "page_faults.js").read_text()


@dataclass(frozen=True)
class View:
    """How a page is looked at."""

    name: str
    width: int
    is_dark: bool = False
    is_printed: bool = False


VIEWS = (
    View("wide", 1400),
    View("narrow", 390),
    View("dark", 1400, is_dark=True),
    # A4 less margins of 14 mm, at 96 dpi.
    View("print", 688, is_printed=True),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """Start headless Chromium; tests that use it are skipped where there is none."""
    chromium, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


def open_page(browser: webdriver.Chrome, path: Path, view: View = VIEWS[0]) -> None:
    """Open a page and wait until its figures are drawn."""
    metrics = {"width": view.width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if view.is_dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    # A page that is already shown would only scroll to its target.
    browser.get("about:blank")
    browser.get(path.absolute().as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.find_element(By.TAG_NAME, "body").get_attribute("data-drawn"))


def unfold(browser: webdriver.Chrome, view: View) -> None:
    """Open all sections of a page, as a printer does for paper."""
    if view.is_printed:
        browser.execute_script("dispatchEvent(new Event('beforeprint'))")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    else:
        browser.find_element(By.ID, "unfold").click()
    # Figures are drawn anew for the width that they have now.
    browser.execute_async_script("setTimeout(arguments[0], 300)")


def page_faults(browser: webdriver.Chrome, path: Path) -> list[str]:
    """Return what is wrong with a page, a line for each fault, with the view that shows it.

    The faults are: errors in the console, a page that scrolls sideways, texts that overlap, text with too little
    contrast (WCAG AA), a verdict that ends below the first screen with its picture, figures without data, and more
    bytes than allowed.
    """
    faults = []
    if (size := path.stat().st_size) > MAX_BYTES:
        faults.append(f"the page has {size:,} bytes")
    for view in VIEWS:
        open_page(browser, path, view)
        bottom = max((p.rect["y"] + p.rect["height"] for p in browser.find_elements(*VERDICT)), default=0)
        if not view.is_printed and bottom > FIRST_SCREEN:
            faults.append(f"{view.name}: the verdict ends at {bottom:.0f} px")
        unfold(browser, view)
        faults += [f"{view.name}: {fault}" for fault in browser.execute_script(FIND_FAULTS, view.width)]
        faults += [f"{view.name}: {entry['message']}" for entry in browser.get_log("browser")]
    return faults
