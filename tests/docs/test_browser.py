"""The docs site in a real browser: quiet, self-contained, searchable, and readable on a phone and at night."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served: below a folder, as most hosts serve it."""
    site.parent.joinpath("mlguard-docs").symlink_to(site, target_is_directory=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site.parent)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/mlguard-docs/"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def show(browser: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)


def until(browser: Any, condition: Callable[[Any], Any], every: float = 0.05) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, poll_frequency=every).until(condition)


def requests_of(browser: Any) -> set[str]:
    """The addresses that pages have asked for since the last look, failed requests included."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith(("data:", "blob:", "chrome:", "about:"))}


def test_every_page(browser: Any, address: str, site: Path) -> None:
    """No page asks another host for anything, complains to the console, or is wider than a phone."""
    show(browser, 400, "light")
    asked, complaints, wide = set(), [], []
    for path in sorted(site.rglob("index.html")):
        page = str(path.parent.relative_to(site)).removeprefix(".")
        browser.get(f"{address}{page}/" if page else address)
        if browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(page)
        asked |= requests_of(browser)
        complaints += [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert len(asked) > 20
    assert not [url for url in asked if not url.startswith(address)]
    assert not complaints
    assert not wide


FOUND = """
function inside(root) {
    const all = [...root.querySelectorAll("*")];
    return all.concat(...all.filter(each => each.shadowRoot).map(each => inside(each.shadowRoot)));
}
const links = inside(document).filter(each => each.tagName === "A" && each.getRootNode() !== document);
return links.map(each => each.href);
"""


def test_search(browser: Any, address: str) -> None:
    """Words from the middle of a page are found, without another host being asked."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(browser, 1400, "light")
    browser.get(address)
    requests_of(browser)

    def opened(driver: Any) -> bool:
        """Asks again where the page's script was not ready yet for the first time."""
        if driver.execute_script("return !!document.activeElement.shadowRoot"):
            return True
        ActionChains(driver).key_down(Keys.CONTROL).send_keys("k").key_up(Keys.CONTROL).perform()
        return False

    until(browser, opened, every=1)
    ActionChains(browser).send_keys("retry budget").perform()
    # What the first letters alone find may come before.
    until(browser, lambda driver: any("/resilience/" in link for link in driver.execute_script(FOUND) or ()))
    assert not [url for url in requests_of(browser) if not url.startswith(address)]


@pytest.mark.parametrize("page", ["", "tutorial/", "drift/", "reference/sections/"])
def test_light_and_dark(browser: Any, address: str, page: str) -> None:
    """The page follows the reader's own mode: dark letters on light, light letters on dark."""

    def brightness(name: str) -> float:
        colour = browser.execute_script(f"return getComputedStyle(document.body).{name}")
        return sum(float(each) for each in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3

    for scheme in ("light", "dark"):
        show(browser, 1400, scheme)
        browser.get(address + page)
        paper, ink = brightness("backgroundColor"), brightness("color")
        assert (paper > 200 > 100 > ink) if scheme == "light" else (ink > 150 > 60 > paper)
