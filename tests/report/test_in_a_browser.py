"""A report in a real browser: no request, no error, readable in every light and width, on paper, and by keyboard."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlguard.report import Figures, page, save

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium leaves the sockets to its driver to the collector
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests here."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(figures: Figures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a day."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    save(page(figures), path)
    return path


def show(browser: Any, file: Path, *, width: int = 1_400, light: str = "light", media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": light}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


def requests(browser: Any) -> list[str]:
    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of `rgb(...)`."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """
const found = {};
for (const query of ["h1", ".standfirst", ".note", ".sub", "q", "summary", "svg text", ".flag"]) {
  const element = document.querySelector(query);
  const style = element && getComputedStyle(element);
  if (style) found[query] = element.closest("svg") ? style.fill : style.color;
}
const marks = {};
for (const element of document.querySelectorAll("path.fill"))
  marks[element.getAttribute("class")] = getComputedStyle(element).fill;
return [getComputedStyle(document.body).backgroundColor, found, marks];
"""


@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("width", [1_400, 700, 400])
def test_it_loads_alone_and_fits(browser: Any, file: Path, width: int, light: str) -> None:
    """From a file, with no request but itself and no word in the console; nothing hangs over the edge."""
    requests(browser)
    show(browser, file, width=width, light=light)
    assert requests(browser) == [file.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    outside = """return [...document.querySelectorAll("h1, h2, h3, p, dd, li, td, th, q")]
      .filter((e) => e.offsetParent && !e.closest("details, .scroll, .skip"))
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 200))"""
    assert browser.execute_script(outside) == []


@pytest.mark.parametrize("light", ["light", "dark"])
def test_it_can_be_read_in_both_lights(browser: Any, file: Path, light: str) -> None:
    """Text has the contrast that WCAG 2 AA asks for, 4.5, and what is drawn 3."""
    show(browser, file, light=light)
    paper, texts, marks = browser.execute_script(COLOURS)
    assert (luminance(paper) < 0.1) is (light == "dark")
    assert {name: ratio for name, colour in texts.items() if (ratio := contrast(colour, paper)) < 4.5} == {}
    assert len(marks) > 6
    assert {name: ratio for name, colour in marks.items() if (ratio := contrast(colour, paper)) < 3} == {}


def test_the_switch_turns_the_light_on_and_off(browser: Any, file: Path) -> None:
    """Whatever the system prefers, the button shows the other one and goes back."""
    show(browser, file, light="dark")
    button = browser.find_element("id", "theme")
    assert button.text == "Light"
    button.click()
    assert luminance(browser.execute_script(COLOURS)[0]) > 0.8
    assert button.text == "Dark"
    button.click()
    assert luminance(browser.execute_script(COLOURS)[0]) < 0.1


def test_charts_are_read_out_by_keyboard_and_pointer(browser: Any, file: Path) -> None:
    """The arrow keys go from step to step and say the numbers of the table behind the chart."""
    from selenium.webdriver import ActionChains, Keys

    show(browser, file)
    figure = browser.find_element("css selector", "figure[data-table=traffic-table]")
    out = figure.find_element("css selector", "output")
    assert not out.is_displayed()
    figure.send_keys(Keys.ARROW_RIGHT)
    first = browser.execute_script(
        "return [...document.querySelector('#traffic-table tbody tr').cells].map(c => c.textContent)"
    )
    assert out.text.startswith(first[0])
    assert f"function ran {first[1]}" in out.text
    figure.send_keys(Keys.ARROW_RIGHT)
    assert not out.text.startswith(first[0])
    ActionChains(browser).move_to_element(figure.find_element("css selector", "svg.plot")).perform()
    assert "function ran" in out.text
    assert browser.get_log("browser") == []


def test_it_reads_without_its_script(browser: Any, file: Path) -> None:
    """Where scripts are off, nothing but the switch and the read-out is missing."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, file)
        assert not browser.find_element("id", "theme").is_displayed()
        assert browser.find_element("css selector", "h1").text
        details = browser.find_element("css selector", "details")
        details.find_element("css selector", "summary").click()
        assert details.find_element("css selector", "table").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_prints(browser: Any, file: Path) -> None:
    """On white paper whatever the theme, without what only a screen has a use for, on a few pages."""
    show(browser, file, light="dark", media="print")
    assert browser.execute_script(COLOURS)[0] == "rgb(255, 255, 255)"
    assert not browser.find_element("css selector", "nav").is_displayed()
    assert not browser.find_element("id", "theme").is_displayed()
    show(browser, file, light="dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12


@pytest.mark.parametrize("name", ["empty", "one", "failures", "year", "many", "untimed", "damaged", "hostile"])
def test_odd_records_look_right(browser: Any, told: Callable[[str], Figures], tmp_path: Path, name: str) -> None:
    """No text of a record runs, asks for anything, or breaks the page, on a phone and on a desk."""
    file = tmp_path / "odd.html"
    save(page(told(name)), file)
    for width in (1_400, 400):
        requests(browser)
        show(browser, file, width=width)
        assert requests(browser) == [file.as_uri()]
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth") == width
        assert "owned" not in browser.title
