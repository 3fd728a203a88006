"""The page: a step, an image, what the step says of it; two steps side by side; the numbers of all."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from hub.run.errors import UserError
from hub.space import html
from hub.space.answers import not_learned_yet, scores
from hub.space.attention import token_views
from hub.space.changes import changes
from hub.space.revisions import Revisions


#: System fonts: those of the default theme come from another server.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
EXAMPLES = Path(__file__).parent / "examples"
_NO_IMAGE = "Upload an image, or choose an example below it."
_NO_TOKENS = (
    "This model has no task token for each step, or its patches are no square grid: there is no attention to show."
)
# Of task tokens, on a phone, too.
_COLUMNS = 3

Shown = tuple[Any, ...]


def build_page(revisions: Revisions) -> gr.Blocks:
    """
    The page of a run. A step is loaded when it is asked for the first time.

    Args:
        revisions (`Revisions`): of the run.
    """
    steps = revisions.steps
    with gr.Blocks(title=f"{revisions.name}, step by step", analytics_enabled=False) as page:
        known = revisions.entries[-1].num_seen_classes if revisions.entries else "?"
        gr.Markdown(f"# {html.text_of(revisions.name)}\n{_counted(len(steps), 'step')}, {known} classes.")
        step = _step_selector("Step", steps, steps[-1], "step")
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    type="filepath",
                    sources=["upload", "clipboard"],
                    label="Image",
                    elem_id="image",
                    height=300,
                    buttons=[],
                )
                # Gradio's own reading answers a broken file with a traceback.
                image.preprocess = lambda payload: payload.path if payload else None
                files = sorted(map(str, EXAMPLES.glob("*.png")))
                gr.Examples(files, image, label="Examples (handwritten digits of the UCI repository, CC BY 4.0)")
            with gr.Column(min_width=300):
                answer = gr.HTML(html.note(_NO_IMAGE), elem_id="answer")
        with gr.Accordion("What each step says", open=False):
            ask_all = gr.Button("Ask every step", elem_id="ask-all")
            every_step = gr.HTML(elem_id="every-step")
        with gr.Accordion("What every task token looks at", open=False):
            gr.Markdown(
                "The image as the model sees it, bright where the task token of a step looks: mean over heads."
            )
            tokens = gr.Gallery(
                columns=_COLUMNS,
                label="Task tokens",
                elem_id="tokens",
                buttons=[],
                object_fit="contain",
                height="auto",
            )
            tokens_note = gr.HTML(elem_id="tokens-note")
        if len(steps) > 1:
            _add_comparison(revisions)
        _add_results(revisions)

        asked = {"inputs": [step, image], "trigger_mode": "always_last", "show_progress": "minimal"}
        for event in (step.change, image.change):
            event(_answer(revisions), outputs=[answer], **asked)
            event(_tokens(revisions), outputs=[tokens, tokens_note], **asked)
        ask_all.click(_every_step(revisions), [image], [every_step])
        image.change(lambda: "", outputs=[every_step])
    return page


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _step_selector(label: str, steps: Sequence[int], value: int, elem_id: str) -> gr.components.Component:
    """A slider, which takes keys and pointer; with one step, at which a slider cannot be made, a single choice."""
    if len(steps) == 1:
        return gr.Radio([(f"step {steps[0]}", steps[0])], value=value, label=label, elem_id=elem_id)
    return gr.Slider(steps[0], steps[-1], value=value, step=1, precision=0, label=label, elem_id=elem_id, buttons=[])


def _add_comparison(revisions: Revisions) -> None:
    steps = revisions.steps
    with gr.Accordion("Two steps side by side", open=False) as panel:
        with gr.Row():
            earlier = _step_selector("Earlier step", steps, steps[0], "earlier")
            later = _step_selector("Later step", steps, steps[-1], "later")
        compare = _compare(revisions)
        shown = gr.HTML(elem_id="changes")
    for event in (panel.expand, earlier.change, later.change):
        event(compare, [earlier, later], [shown], trigger_mode="always_last", show_progress="minimal")


def _add_results(revisions: Revisions) -> None:
    with gr.Accordion("Accuracy of all steps", open=False):
        gr.HTML(html.steps_table(revisions.entries), elem_id="steps")
        try:
            gr.HTML(html.matrix_table(revisions.results(revisions.steps[-1])), elem_id="matrix")
        except UserError as error:
            gr.HTML(html.message(str(error)), elem_id="matrix")


def _with_messages(empty: Shown) -> Callable[[Callable[..., Shown]], Callable[..., Shown]]:
    """Shows what goes wrong as a sentence in the last output, and `empty` in those before it."""

    def decorate(function: Callable[..., Shown]) -> Callable[..., Shown]:
        @wraps(function)
        def guarded(*inputs: Any) -> Any:
            try:
                shown = function(*inputs)
            except UserError as error:
                shown = (*empty, html.message(str(error)))
            return shown if len(shown) > 1 else shown[0]

        return guarded

    return decorate


def _answer(revisions: Revisions) -> Callable[..., Shown]:
    @_with_messages(())
    def answer(step: int, image: str | None) -> Shown:
        if image is None:
            return (html.note(_NO_IMAGE),)
        found = scores(revisions.load(int(step)), open_image(image))
        return (html.scores_table(int(step), found, not_learned_yet(revisions.entries, int(step))),)

    return answer


def _tokens(revisions: Revisions) -> Callable[..., Shown]:
    @_with_messages(([],))
    def tokens(step: int, image: str | None) -> Shown:
        if image is None:
            return [], ""
        views = token_views(revisions.load(int(step)), open_image(image))
        named = [(view.overlay, f"step {view.step}: {', '.join(view.classes)}") for view in views]
        return named, "" if views else html.note(_NO_TOKENS)

    return tokens


def _every_step(revisions: Revisions) -> Callable[..., Shown]:
    @_with_messages(())
    def every_step(image: str | None) -> Shown:
        if image is None:
            return (html.note(_NO_IMAGE),)
        opened = open_image(image)
        return (html.every_step_table([(step, scores(revisions.load(step), opened)[0]) for step in revisions.steps]),)

    return every_step


def _compare(revisions: Revisions) -> Callable[..., Shown]:
    @_with_messages(())
    def compare(one: int, other: int) -> Shown:
        earlier, later = sorted((int(one), int(other)))
        if earlier == later:
            return (html.note("Choose two different steps."),)
        results = revisions.results(earlier), revisions.results(later)
        confusions = revisions.confusion(earlier, results[0]), revisions.confusion(later, results[1])
        return (html.changes_table(earlier, later, changes(*results, confusions)),)

    return compare


def open_image(path: str) -> Image.Image:
    """
    An uploaded image.

    Raises:
        UserError: it is none that Pillow reads.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise UserError(f"{Path(path).name} is not an image that can be read: upload a PNG or a JPEG") from error
