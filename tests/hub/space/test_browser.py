"""The explorer in headless Chromium, over a Hub in a folder: by keyboard and pointer, with one step and with five."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from hub.publish import main as publish
from tests.hub.space.browser import EXAMPLE, PANELS, Explorer, chromium, explorer, missing


if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.hub.conftest import LocalHub

if REASON := missing():
    pytest.skip(REASON, allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.mark.slow
def test_a_visitor_walks_through_five_steps(
    hub: "LocalHub", browser: "Browser", explored: Callable[[int], Path], tmp_path: Path
) -> None:
    publish([str(explored(5)), "--hub_model_id", "org/five"])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with explorer("org/five", "--endpoint", hub.endpoint, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1") as address:
        visitor = Explorer(browser, address)
        page = visitor.page
        visitor.upload(EXAMPLE)
        assert "Not learned yet" not in visitor.text("answer", "What step 5 says")

        # By keyboard: two steps back.
        slider = page.locator("#step input[type=range]")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        answer = visitor.text("answer", "What step 3 says")
        assert "Not learned yet at step 3: emu, cod, yak, gnu" in answer and "<b>bee</b>" in answer

        # By pointer: to the first.
        box = slider.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 1, box["y"] + box["height"] / 2)
        assert len(visitor.text("answer", "What step 1 says").splitlines()) < len(answer.splitlines())

        visitor.open(PANELS[0])
        page.click("#ask-all")
        assert visitor.text("every-step", "step 5").count("step 1") >= 1
        visitor.open(PANELS[1])
        page.locator("#tokens img[alt^='step 1: owl, fox']").first.wait_for(timeout=60_000)
        visitor.open(PANELS[2])
        # Step 1 has no confusion matrix: its classes together.
        assert "not recorded" in visitor.text("changes", "From step 1 to step 5: ")
        page.locator("#earlier input[type=range]").focus()
        page.keyboard.press("ArrowRight")
        changes = visitor.text("changes", "From step 2 to step 5: ")
        assert "6 new" in changes and "not recorded" not in changes
        visitor.open(PANELS[3])
        assert "step 5" in visitor.text("steps", "average so far") and visitor.text("matrix", "on step 5")

        visitor.upload(broken)
        visitor.text("answer", "broken.png is not an image that can be read: upload a PNG or a JPEG")
        assert (visitor.strangers, visitor.errors) == ([], [])
        page.close()


@pytest.mark.slow
def test_a_run_of_one_step_has_no_slider(browser: "Browser", explored: Callable[[int], Path], tmp_path: Path) -> None:
    Image.open(EXAMPLE).convert("L").save(tmp_path / "grey.jpg")
    with explorer("--local", str(explored(1))) as address:
        visitor = Explorer(browser, address)
        assert not visitor.page.locator("input[type=range]").count() and visitor.page.locator("#step").count()
        visitor.upload(tmp_path / "grey.jpg")
        answer = visitor.text("answer", "What step 1 says")
        assert "owl" in answer and "fox" in answer
        assert not visitor.page.get_by_role("button", name=PANELS[2]).count()
        assert (visitor.strangers, visitor.errors) == ([], [])
        visitor.page.close()
