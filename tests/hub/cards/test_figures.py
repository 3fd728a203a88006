"""The figures: they show the numbers they are given, at every size, and are the same everywhere."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle, StepPatch
from PIL import Image

from hub.cards.figures import accuracy_matrix, accuracy_per_step, calibration, confusion_matrix, draw_figures
from hub.run.results import ReliabilityBin, RunResults
from hub.run.seed_results import OtherRun
from tests.hub.fake_run import make_ancestors, make_confusion, make_results, with_calibration


CONTINUED = make_results(10, 3, ancestors=make_ancestors(3, 5))
RUNS = [make_results(1), make_results(1, 1000), make_results(5), make_results(11, 1), make_results(50, 20), CONTINUED]


def numbers(values: object) -> np.ndarray:
    """None as NaN."""
    return np.array(values, dtype=float)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("run", RUNS)
def test_the_matrix_shows_the_accuracies_and_where_there_are_none(run: RunResults) -> None:
    axes = accuracy_matrix(run).axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    for i, step in enumerate(run.steps):
        np.testing.assert_array_equal(shown[i, : i + 1], numbers(step.accuracy_per_step))
        assert np.isnan(shown[i, i + 1 :]).all(), "nothing of the future"
    gaps = {(i, j) for i, step in enumerate(run.steps) for j, one in enumerate(step.accuracy_per_step) if one is None}
    hatched = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert {(y - 0.5, x - 0.5) for x, y in hatched} == gaps and len(hatched) == len(gaps)
    cells = len(run.steps) * (len(run.steps) + 1) // 2
    assert sum(map(str.isdigit, texts(axes))) == (cells - len(gaps) if len(run.steps) <= 10 else 0)


@pytest.mark.parametrize("run", RUNS)
def test_the_curve_shows_accuracy_average_and_chance(run: RunResults) -> None:
    axes = accuracy_per_step(run).axes[0]
    accuracy = numbers([step.accuracy for step in run.steps])
    np.testing.assert_allclose(numbers(axes.lines[0].get_ydata()), accuracy)
    averages = [accuracy[:count].mean() for count in range(1, len(accuracy) + 1)]
    dashed = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    if len(accuracy) == 1 or run is CONTINUED:
        assert not dashed, "a mean that lacks a term is not drawn"
    else:
        np.testing.assert_allclose(dashed, [averages])
    chance = next(patch for patch in axes.patches if isinstance(patch, StepPatch))
    np.testing.assert_allclose(chance.get_data().values, [1 / step.num_seen_classes for step in run.steps])
    low, high = axes.get_ylim()
    assert low == 0 and high >= 1, "percent axes start at zero"


def test_a_continued_model_shows_where_it_began_and_what_was_measured() -> None:
    axes = accuracy_per_step(CONTINUED).axes[0]
    places = [line.get_xdata()[0] for line in axes.lines if tuple(line.get_ydata()) == (0, 1)]
    assert places == [3.5, 5.5]
    names = [text.get_text() for text in axes.texts if text.get_rotation() == 90]
    assert names == ["org/first@step3", "org/first-2@step5"]
    (hollow,) = (line for line in axes.lines if line.get_markerfacecolor() == "white")
    expected = numbers([step.accuracy_of_measured for step in CONTINUED.steps])
    np.testing.assert_array_equal(numbers(hollow.get_ydata()), expected)
    assert f"{expected[-1]:.1%} on 21 of 30 classes" in texts(axes)
    assert not any("all classes seen" in text for text in texts(axes))


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_with_other_seeds_the_curve_is_their_mean_in_a_band_of_one_deviation(steps: int) -> None:
    runs = [make_results(steps, seed=seed) for seed in range(3)]
    axes = accuracy_per_step(runs[0], [OtherRun.of(run, True) for run in runs[1:]]).axes[0]
    accuracies = numbers([[step.accuracy for step in run.steps] for run in runs])
    mean, deviation = accuracies.mean(axis=0), np.sqrt(((accuracies - accuracies.mean(axis=0)) ** 2).sum(axis=0) / 2)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    assert any(text.endswith("n = 3") for text in texts(axes))
    assert any(text.startswith(f"{mean[-1]:.1%} ") for text in texts(axes))
    if steps > 1:
        corners = axes.collections[0].get_paths()[0].vertices
        for step in range(1, steps + 1):
            band = corners[corners[:, 0] == step][:, 1]
            expected = (mean - deviation)[step - 1], (mean + deviation)[step - 1]
            assert (band.min(), band.max()) == pytest.approx(expected)
        drawn = [tuple(line.get_ydata()) for line in axes.lines]
        assert {tuple(accuracy) for accuracy in accuracies} <= set(drawn), "each run has its own line"


@pytest.mark.parametrize("confidence", [None, 0.0, 1e-9, 1 / 15, 2 / 15 + 1e-17, 1.0])
def test_the_reliability_diagram_shows_the_bins_and_their_error(confidence: float | None) -> None:
    """Many bins, or a single one in any place."""
    run = with_calibration(make_results(3))
    if confidence is not None:
        bins = (ReliabilityBin(confidence, 1.0, 7),)
        last = replace(run.last, calibration=bins, expected_calibration_error=1 - confidence)
        run = replace(run, steps=(*run.steps[:-1], last))
    axes, strip = calibration(run).axes
    bins = run.last.calibration or ()
    (points,) = (line for line in axes.lines if line.get_marker() == "o")
    shown = sorted(zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert shown == sorted((entry.confidence, entry.accuracy) for entry in bins)
    total = sum(entry.count for entry in bins)
    for bar, entry in zip(strip.patches, bins, strict=True):
        assert bar.get_height() == pytest.approx(entry.count / total)
        start, stop = bar.get_x() - 0.003, bar.get_x() + bar.get_width() + 0.003
        assert -1e-3 <= start <= entry.confidence <= stop <= 1.001
    assert texts(axes)[0].endswith(f"error {run.last.expected_calibration_error:.1%}")
    assert axes.get_title(loc="left").endswith("step 3")


@pytest.mark.parametrize("run", [make_results(3, 4), make_results(2, 50), CONTINUED, make_results(50, 20)])
def test_the_confusion_matrix_shows_the_share_of_each_row_step_by_step(run: RunResults) -> None:
    confusion, count = make_confusion(run), run.last.num_seen_classes
    axes = confusion_matrix(run, confusion).axes[0]
    measured = {true for true, _ in confusion.counts}
    expected = np.full((count, count), np.nan)
    for true in measured:
        total = sum(images for pair, images in confusion.counts.items() if pair[0] == true)
        expected[true] = [confusion.counts.get((true, predicted), 0) / total for predicted in range(count)]
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan), expected)
    hatched = {patch.get_y() + 0.5 for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()}
    assert hatched == set(range(count)) - measured
    stops = [step.num_seen_classes - 0.5 for step in run.steps[:-1]]
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines]
    assert sorted(x[0] for x, y in lines if y == (0, 1)) == sorted(y[0] for x, y in lines if x == (0, 1)) == stops
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = np.round(axes.get_yticks()).astype(int).tolist()
    assert names == [run.class_names[place] for place in places] == [one.get_text() for one in axes.get_xticklabels()]
    assert names == run.class_names if count <= 30 else 10 < len(names) <= 30
    assert sum(map(str.isdigit, texts(axes))) == (len(confusion.counts) if count <= 30 else 0)


def test_labels_of_close_lines_do_not_overlap() -> None:
    steps = [replace(step, accuracy=0.3, num_seen_classes=3) for step in make_results(4).steps]
    figure = accuracy_per_step(replace(make_results(4), steps=tuple(steps)))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if "%" in text.get_text()]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_the_bytes_depend_on_the_results_alone(tmp_path: Path) -> None:
    results = with_calibration(make_results(3))
    confusion = make_confusion(results)
    first = [path.read_bytes() for path in draw_figures(results, tmp_path / "a", (), confusion)]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "lines.linewidth": 9}):
        again = draw_figures(results, tmp_path / "b", (), confusion)
    assert [path.read_bytes() for path in again] == first and len(first) == 4
    for path in again:
        with Image.open(path) as image:
            assert image.info.keys() <= {"dpi"}, "no software, date or name in the file"
            assert min(image.size) > 400
    other = with_calibration(make_results(3, seed=1))
    drawn = draw_figures(other, tmp_path / "c", (), make_confusion(other))
    assert all(path.read_bytes() != old for path, old in zip(drawn, first, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [r"$\frac{", "a\nb\tc", "数据集", "x" * 500, "\ud800", "", "/home/someone/pictures"])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    ancestors = [replace(make_ancestors(1, model=name, dataset=name)[0], revision=name or None)]
    results = make_results(2, dataset=name, method=name, ancestors=ancestors, names=[name, "a", "b", "c"])
    for path in draw_figures(results, tmp_path, (), make_confusion(results)):
        with Image.open(path) as image:
            assert image.width < 2500
