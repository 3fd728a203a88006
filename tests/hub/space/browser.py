"""
Drives the explorer with headless Chromium; as a script it makes screenshots.

    python -m tests.hub.space.browser FOLDER
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit


if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "hub" / "space" / "examples" / "digit_3.png"
PANELS = ("What each step says", "What every task token looks at", "Two steps side by side", "Accuracy of all steps")
DESKTOP, PHONE = (1200, 900), (390, 844)
#: Chromium as Debian and others name it.
NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str | None:
    """What a browser test lacks here, for a reader; None if it can run."""
    for name in ("gradio", "playwright"):
        try:
            __import__(name)
        except ModuleNotFoundError:
            return f'{name} is not installed: pip install -e ".[dev]"'
    return None if _chromium() else f"none of {', '.join(NAMES)} is installed: apt-get install chromium"


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def explorer(*arguments: str, **environment: str) -> Iterator[str]:
    """Runs `python -m hub.space` with these arguments; gives the address of its page."""
    command = [sys.executable, "-u", "-m", "hub.space", *arguments]
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_PROXY": "127.0.0.1", **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                yield line.split()[-1]
                break
        else:
            raise AssertionError(f"the page did not start: exit status {process.wait()}")
    finally:
        process.kill()
        process.wait()


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox of its own it runs as root, too, as in a container.
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


class Explorer:
    """
    A page of the explorer in a browser, as a visitor uses it.

    Args:
        browser (`Browser`): the browser.
        address (`str`): of the page.
        size (`tuple[int, int]`, *optional*): width and height of the window in pixels.
        dark (`bool`, *optional*, defaults to `False`): whether the visitor prefers dark pages.
    """

    def __init__(self, browser: "Browser", address: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        self.page: Page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
        )
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._note_request)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#answer")

    def _note_request(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.strangers.append(request.url)

    def upload(self, path: Path) -> None:
        """Gives an image, in place of the one before."""
        clear = self.page.locator("#image button[aria-label='Clear'], #image button[title='Clear']")
        if clear.count():
            clear.first.click()
        self.page.set_input_files("#image input[type=file]", str(path))

    def open(self, panel: str) -> None:
        """Opens a part of the page."""
        self.page.get_by_role("button", name=panel).first.click()

    def text(self, name: str, expected: str) -> str:
        """The text of a part, once it holds what is expected."""
        part = self.page.locator(f"#{name}", has_text=expected)
        part.wait_for(timeout=60_000)
        return part.inner_text()


def make_screenshots(folder: Path) -> None:
    """Desktop and phone, one step and five, light and dark."""
    from tests.hub.space.conftest import write_explored_run

    with tempfile.TemporaryDirectory() as runs, chromium() as browser:
        for num_steps in (1, 5):
            run = write_explored_run(Path(runs) / f"run{num_steps}", num_steps)
            with explorer("--local", str(run)) as address:
                for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
                    for dark in (False, True):
                        visitor = Explorer(browser, address, size, dark)
                        visitor.upload(EXAMPLE)
                        visitor.text("answer", f"What step {num_steps} says")
                        for panel in PANELS if num_steps > 1 else (*PANELS[:2], PANELS[3]):
                            visitor.open(panel)
                        visitor.page.click("#ask-all")
                        visitor.text("every-step", f"step {num_steps}")
                        if num_steps > 1:
                            visitor.text("changes", "From step 1")
                        visitor.page.wait_for_timeout(1000)
                        theme = "dark" if dark else "light"
                        visitor.page.screenshot(path=folder / f"steps{num_steps}_{name}_{theme}.png", full_page=True)
                        visitor.page.close()


if __name__ == "__main__":
    make_screenshots(Path(sys.argv[1]))
