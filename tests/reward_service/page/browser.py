"""A real Chromium without a window, and what the tests ask it.

Owns `Browser`, a thin hand on Selenium's driver. Every wait has a deadline; nothing sleeps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_SECONDS = 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Nothing outside has a name here, so nothing can leave unseen.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_LOGS = {"browser": "ALL", "performance": "ALL"}


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A fresh Chromium with `profile` as its empty profile."""
    options = ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = _installed("chromium")
    options.set_capability("goog:loggingPrefs", _LOGS)
    driver = Chrome(options=options, service=Service(_installed("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _installed(program: str) -> str:
    path = shutil.which(program)
    assert path is not None, f"{program} is not on the path; set-up installs Debian's chromium and chromium-driver"
    return path


class Browser:
    """One tab, as a person at the keyboard has it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._requested: list[str] = []
        self._complaints: list[str] = []

    def open(self, url: str) -> None:
        """Load the page and wait until it knows how the service is."""
        self.drain()
        self._requested, self._complaints = [], []
        self.driver.get(url)
        self.until(lambda: self.one("#readiness").get_attribute("data-state") != "unknown", "readiness")

    def close(self) -> None:
        """Leave the page and take back what was emulated."""
        for domain in ("Emulation.clearDeviceMetricsOverride", "Emulation.setEmulatedMedia"):
            self.driver.execute_cdp_cmd(domain, {})
        self.offline(False)
        self.driver.get("about:blank")

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def run(self, script: str, *arguments: Any) -> Any:
        """What `script`, the body of a function, returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds. What the page replaces while it is being read is read again."""
        WebDriverWait(self.driver, WAIT_SECONDS, 0.05, [StaleElementReferenceException]).until(
            lambda _: holds(), f"{what}: not so within {WAIT_SECONDS:g} s"
        )

    def until_text(self, selector: str, wanted: str) -> None:
        """Wait until the element says `wanted`, among other things."""
        self.until(lambda: wanted in self.text(selector), f"{selector} says {wanted!r}")

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_together(self, modifier: str, key: str) -> None:
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def write_trajectory(self, text: str) -> None:
        """Replace what stands in the editor, as pasting does."""
        self.one("#trajectory").click()
        self.press_together(Keys.CONTROL, "a")
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def score(self, *, expect: str = "Scored") -> None:
        """Press the button and wait for the sentence beside it."""
        self.run("document.getElementById('summary').textContent = ''")
        self.one("#score").click()
        self.until_text("#summary", expect)

    def focused(self) -> str:
        """Id of the element that has the focus."""
        return self.driver.switch_to.active_element.get_attribute("id") or ""

    def screen(self, width: int, height: int, scale: float = 1.0) -> None:
        """The size of the window, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """What the reader prefers: `prefers_color_scheme="dark"`."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def offline(self, off: bool) -> None:
        conditions = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    def screenshot(self, path: Path) -> None:
        """The whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        self.screen(self.run("return window.innerWidth"), height)
        self.driver.get_screenshot_as_file(str(path))

    def drain(self) -> None:
        """Take what the browser logged since the last time."""
        self._complaints += [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requested.append(message["params"]["request"]["url"])

    def complaints(self) -> list[str]:
        """Everything on the console since the page was opened."""
        self.drain()
        return self._complaints

    def requested(self) -> list[str]:
        """The address of every request since the page was opened."""
        self.drain()
        return self._requested

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader is given, in order: role, name and properties of every node that is not ignored."""
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [_told(node) for node in nodes if not node["ignored"]]


def _told(node: dict[str, Any]) -> dict[str, Any]:
    properties = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", ())}
    return {"role": node["role"]["value"], "name": node.get("name", {}).get("value", ""), **properties}
