"""The figures: they show the numbers they are given, at every size, and are the same everywhere."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle, StepPatch
from PIL import Image

from hub.cards.figures import accuracy_matrix, accuracy_per_step, calibration, draw_figures
from hub.run.errors import StepFolderError
from hub.run.results import RunResults
from hub.run.seed_results import OtherRun
from tests.hub.fake_run import continued, fake_results, with_calibration


NAMES = ("accuracy_per_step.png", "accuracy_matrix.png")
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


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_with_other_seeds_the_curve_is_their_mean_in_a_band_of_one_deviation(steps: int) -> None:
    runs = [RunResults.from_dict(fake_results(steps, seed=seed)) for seed in range(3)]
    axes = accuracy_per_step(runs[0], [OtherRun.of(run, True) for run in runs[1:]]).axes[0]
    accuracies = np.array([[step.accuracy for step in run.steps] for run in runs])
    mean, deviation = accuracies.mean(axis=0), np.sqrt(((accuracies - accuracies.mean(axis=0)) ** 2).sum(axis=0) / 2)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    (text,) = (text.get_text() for text in axes.texts if "n = " in text.get_text())
    assert text.endswith("n = 3") and any(text.get_text().startswith(f"{mean[-1]:.1%} ") for text in axes.texts)
    if steps > 1:
        corners = axes.collections[0].get_paths()[0].vertices
        for step in range(1, steps + 1):
            at_step = corners[corners[:, 0] == step][:, 1]
            assert at_step.min() == pytest.approx((mean - deviation)[step - 1])
            assert at_step.max() == pytest.approx((mean + deviation)[step - 1])
        drawn = [tuple(line.get_ydata()) for line in axes.lines]
        assert {tuple(accuracy) for accuracy in accuracies} <= set(drawn), "each run has its own line"


@pytest.mark.parametrize(("steps", "ancestors"), [(4, (1,)), (10, (3, 5)), (50, (20,))])
def test_a_continued_model_shows_where_it_began_and_what_was_not_measured(
    steps: int, ancestors: tuple[int, ...]
) -> None:
    results = continued(fake_results(steps), *ancestors)
    run = RunResults.from_dict(results)
    axes = accuracy_matrix(run).axes[0]
    gaps = {
        (i, j) for i, row in enumerate(results["steps"]) for j, a in enumerate(row["accuracy_per_step"]) if a is None
    }
    hatched = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert {(y - 0.5, x - 0.5) for x, y in hatched} == gaps and len(hatched) == len(gaps) > 0
    shown = np.asarray(np.ma.filled(axes.images[0].get_array(), np.nan))
    expected = {(i, j) for i in range(steps) for j in range(i + 1)} - gaps
    assert {(int(i), int(j)) for i, j in np.argwhere(~np.isnan(shown))} == expected

    axes = accuracy_per_step(run).axes[0]
    places = [line.get_xdata()[0] for line in axes.lines if tuple(line.get_ydata()) == (0, 1)]
    assert places == [count + 0.5 for count in ancestors]
    names = [text.get_text() for text in axes.texts if text.get_rotation() == 90]
    assert [name.partition("@")[2] for name in names] == [f"step{count}" for count in ancestors]


def test_the_reliability_diagram_shows_the_bins_and_their_error() -> None:
    results = with_calibration(fake_results(3))
    bins = results["steps"][-1]["calibration"]
    axes, strip = calibration(RunResults.from_dict(results)).axes
    (points,) = (line for line in axes.lines if line.get_marker() == "o")
    shown = sorted(zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert shown == sorted((each["confidence"], each["accuracy"]) for each in bins)
    assert [bar.get_height() for bar in strip.patches] == pytest.approx([each["count"] / 400 for each in bins])
    for bar, each in zip(strip.patches, bins, strict=True):
        assert bar.get_x() <= each["confidence"] <= bar.get_x() + bar.get_width() + 0.01
    error = results["steps"][-1]["expected_calibration_error"]
    assert f"error {error:.1%}" in axes.texts[0].get_text() and axes.get_title(loc="left").endswith("step 3")


def test_the_reliability_diagram_is_drawn_where_there_are_bins(tmp_path: Path) -> None:
    files = {path.name for path in draw_figures(fake_results(2), tmp_path / "old")}
    assert files == {path.name for path in (tmp_path / "old" / "figures").iterdir()} == set(NAMES)
    files = {path.name for path in draw_figures(with_calibration(fake_results(2)), tmp_path / "new")}
    assert files == {path.name for path in (tmp_path / "new" / "figures").iterdir()} == {*NAMES, "calibration.png"}


@pytest.mark.parametrize("confidence", [0.0, 1e-9, 1 / 15, 2 / 15 + 1e-17, 1.0])
def test_one_bin_at_any_place_can_be_drawn(confidence: float, tmp_path: Path) -> None:
    results = fake_results(1)
    results["steps"][0]["calibration"] = [{"confidence": confidence, "accuracy": 1.0, "count": 1}]
    results["steps"][0]["expected_calibration_error"] = 1 - confidence
    _, strip = calibration(RunResults.from_dict(results)).axes
    (bar,) = strip.patches
    assert bar.get_x() - 0.01 <= confidence <= bar.get_x() + bar.get_width() + 0.01
    assert len(draw_figures(results, tmp_path)) == 3


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
    results = with_calibration(fake_results(3))
    first = [path.read_bytes() for path in draw_figures(results, tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "lines.linewidth": 9}):
        again = draw_figures(RunResults.from_dict(results), tmp_path / "b")
    assert [path.read_bytes() for path in again] == first
    for path in again:
        with Image.open(path) as image:
            assert image.info.keys() <= {"dpi"}, "no software, date or name in the file"
            assert min(image.size) > 400
    other = draw_figures(with_calibration(fake_results(3, seed=1)), tmp_path / "c")
    assert len(again) == 3 and all(path.read_bytes() != old for path, old in zip(other, first, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "dataset", [r"$\frac{", "a\nb\tc", "数据集", "x" * 500, "\ud800", "", "/home/someone/pictures"]
)
def test_any_data_set_name_can_be_drawn(dataset: str, tmp_path: Path) -> None:
    plain = with_calibration(fake_results(2, dataset=dataset))
    as_ancestor = continued(plain, 1, model=dataset, dataset=dataset, revision=dataset or None)
    for name, results in (("plain", plain), ("continued", as_ancestor)):
        for path in draw_figures(results, tmp_path / name):
            with Image.open(path) as image:
                assert image.width < 2500


def test_results_that_break_the_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepFolderError, match="'steps' is missing"):
        draw_figures({}, tmp_path)
    assert not list(tmp_path.iterdir())
