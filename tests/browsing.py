"""What the tests in a real browser share: the browser, a page that notes its complaints, a dashboard to look at."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from luthier.dashboard.desk import open_desks
from luthier.dashboard.server import listen, make_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
PATIENCE = 45
"""Seconds until something that should be there counts as missing; nothing waits that long on a quiet machine."""


@contextmanager
def served(places: list[Path]) -> Iterator[str]:
    """A dashboard over the studies at ``places``, and its address."""
    import uvicorn

    link = listen("127.0.0.1", 0)
    desks = open_desks([str(place) for place in places])
    server = uvicorn.Server(uvicorn.Config(make_app(desks), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [link]})
    thread.start()
    try:
        yield f"http://localhost:{link.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        link.close()


@contextmanager
def launched() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


class Seen:
    """A page, and what it complained of and asked for."""

    def __init__(self, browser: Any, url: str, folder: Path, **how: Any) -> None:
        how = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **how}
        self.context = browser.new_context(**how)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page = self.context.new_page()
        self.url, self.folder = url, folder
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, where: str) -> Any:
        self.page.goto(f"{self.url}#/{where}")
        return self.page

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=self.folder / f"{name}.png")

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []
        assert [a for a in self.asked if not a.startswith((self.url, "data:", "blob:"))] == []


@contextmanager
def looking(browser: Any, url: str, folder: Path) -> Iterator[Callable[..., Seen]]:
    """Pages on ``url``; afterwards nothing may have failed in them, nor been fetched from elsewhere."""
    place = Path(os.environ.get("LUTHIER_SCREENSHOTS") or folder)
    place.mkdir(parents=True, exist_ok=True)
    made: list[Seen] = []

    def make(**how: Any) -> Seen:
        made.append(Seen(browser, url, place, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def waited(what: Callable[[], Any]) -> Any:
    """What ``what`` gives once it gives something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def number(page: Any, selector: str, key: str) -> int:
    return int(page.locator(selector).first.get_attribute(f"data-{key}") or 0)
