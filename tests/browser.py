"""A real, headless Chromium for tests of what people look at; the system's own, never downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = (1280, 390)  # px: a desk and a telephone
SERIOUS = ("serious", "critical")  # of axe's impacts
OFFLINE = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Where a Chromium is, if there is one: $CHROMIUM, or one of the usual names on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


@contextmanager
def browser() -> Iterator[Browser]:
    """A fresh Chromium without a profile."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=list(OFFLINE))
        try:
            yield running
        finally:
            running.close()


class Watched:
    """A page that remembers what went wrong in it and what it asked the network for."""

    def __init__(self, running: Browser, width: int, dark: bool = False) -> None:
        context = running.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: self.requests.append(asked.url))

    def open_file(self, path: Path) -> None:
        """Open a page from disk, as a double click does."""
        self.page.goto(path.absolute().as_uri(), wait_until="load")

    def external_requests(self) -> list[str]:
        """What was asked for beside files and what a page has in itself."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    def broken_images(self) -> list[str]:
        """Pictures that did not load, by the beginning of their address."""
        found: list[str] = self.page.evaluate(
            "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 80))"
        )
        return found

    def serious_faults(self) -> list[str]:
        """What axe-core calls serious or critical, with the first element of each."""
        violations = Axe().run(self.page).response["violations"]
        return [
            f"{found['id']}: {found['help']} ({found['nodes'][0]['html'][:120]})"
            for found in violations
            if found["impact"] in SERIOUS
        ]
