"""The figures: they show the numbers they are given, at every size, and are the same everywhere."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import StepPatch
from PIL import Image

from hub.errors import StepFolderError
from hub.figures import accuracy_matrix, accuracy_per_step, draw_figures
from hub.results import RunResults
from tests.hub.fake_run import fake_results


SIZES = [(1, 1), (1, 1000), (5, 2), (10, 10), (11, 1), (50, 20)]


@pytest.mark.parametrize(("steps", "classes"), SIZES)
def test_the_matrix_shows_the_accuracies_and_nothing_of_the_future(steps: int, classes: int) -> None:
    results = fake_results(steps, classes)
    axes = accuracy_matrix(RunResults.from_dict(results)).axes[0]
    shown = np.asarray(np.ma.filled(axes.images[0].get_array(), np.nan))
    for i in range(steps):
        assert shown[i, : i + 1].tolist() == results["steps"][i]["accuracy_per_step"]
        assert np.isnan(shown[i, i + 1 :]).all()
    numbers = [text for text in axes.texts if text.get_text().isdigit()]
    assert len(numbers) == (steps * (steps + 1) // 2 if steps <= 10 else 0)


@pytest.mark.parametrize(("steps", "classes"), SIZES)
def test_the_curve_shows_accuracy_average_and_chance(steps: int, classes: int) -> None:
    results = fake_results(steps, classes)
    axes = accuracy_per_step(RunResults.from_dict(results)).axes[0]
    accuracy = [step["accuracy"] for step in results["steps"]]
    curves = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(curves[0], accuracy)
    if steps > 1:
        np.testing.assert_allclose(curves[1], [np.mean(accuracy[:count]) for count in range(1, steps + 1)])
    chance = next(patch for patch in axes.patches if isinstance(patch, StepPatch))
    np.testing.assert_allclose(chance.get_data().values, [1 / (classes * t) for t in range(1, steps + 1)])
    low, high = axes.get_ylim()
    assert low == 0 and high >= 1, "percent axes start at zero"


def test_labels_of_close_lines_do_not_overlap() -> None:
    results = fake_results(4)
    for step in results["steps"]:
        step.update(accuracy=0.3, num_seen_classes=2 * step["step"], accuracy_per_step=[0.3] * step["step"])
    results.update(average_incremental_accuracy=0.3, last_accuracy=0.3)
    figure = accuracy_per_step(RunResults.from_dict(results))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if "%" in text.get_text()]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_the_bytes_depend_on_the_results_alone(tmp_path: Path) -> None:
    results = fake_results(3)
    first = [path.read_bytes() for path in draw_figures(results, tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "lines.linewidth": 9}):
        again = draw_figures(RunResults.from_dict(results), tmp_path / "b")
    assert [path.read_bytes() for path in again] == first
    for path in again:
        with Image.open(path) as image:
            assert image.info.keys() <= {"dpi"}, "no software, date or name in the file"
            assert min(image.size) > 400
    other = draw_figures(fake_results(3, seed=1), tmp_path / "c")
    assert all(path.read_bytes() != old for path, old in zip(other, first, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "dataset", [r"$\frac{", "a\nb\tc", "数据集", "x" * 500, "\ud800", "", "/home/someone/pictures"]
)
def test_any_data_set_name_can_be_drawn(dataset: str, tmp_path: Path) -> None:
    for path in draw_figures(fake_results(2, dataset=dataset), tmp_path):
        with Image.open(path) as image:
            assert image.width < 2500


def test_results_that_break_the_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepFolderError, match="'steps' is missing"):
        draw_figures({}, tmp_path)
    assert not list(tmp_path.iterdir())
