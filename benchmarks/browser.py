"""A headless Chromium, or Chrome, that opens a page from a file."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 300  # seconds, for a machine that is busy with other things


def _found() -> str | None:
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def missing() -> str | None:
    """What this machine lacks, in a few words; None if nothing."""
    if _found() is None:
        return "there is no Chromium"
    return None if shutil.which("chromedriver") else "there is no chromedriver (chromium-driver)"


@contextlib.contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    """A browser without a window, on one core of those that this process may use.

    Args:
        downloads: folder for the files that a page saves.

    Yields:
        Selenium's `Chrome`. `get_log("browser")` has what pages write to the console, and
        `get_log("performance")` what they ask the network for.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = str(_found())
    options.add_argument("--headless=new")
    options.add_argument("--disable-gpu")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which root cannot use
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # inherited by what is started
    try:
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    finally:
        os.sched_setaffinity(0, cores)
    try:
        driver.set_page_load_timeout(_PATIENCE)
        driver.set_script_timeout(_PATIENCE)
        yield driver
    finally:
        driver.quit()


def open_explorer(driver: Any, page: Path) -> None:
    """Open an explorer and wait until it has drawn its first faces."""
    driver.get(page.absolute().as_uri())
    driver.execute_async_script(
        "const done = arguments[0];"
        "const wait = () => control('save').disabled ? setTimeout(wait, 50) : done();"
        "wait();"
    )
