"""The rehearsal memory: its budget, its content and its file."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.data.examples import Examples
from training.data.herding import herd
from training.data.memory import RehearsalMemory, make_memory
from training.data.scenario import Step


HERDING = np.load(Path(__file__).parents[2] / "fixtures" / "herding_a.npz")


def examples(labels: np.ndarray, images: list[object] | None = None) -> Examples:
    """Images whose first pixel is their source index, unless others are given."""
    images = images or [PILImage.new("RGB", (4, 4), (index, 0, 0)) for index in range(len(labels))]
    dataset = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    return Examples(dataset, labels.astype(np.int64), np.arange(len(labels)))


def steps_of_two(everything: Examples, num_steps: int) -> list[Step]:
    return [
        Step(number, [str(start), str(start + 1)], (start, start + 2), everything.of_classes(start, start + 2))
        for number, start in enumerate(range(0, 2 * num_steps, 2), start=1)
    ]


def herded(memory: RehearsalMemory, label: int) -> list[int]:
    """The source indices of the exemplars of a class, in their order."""
    assert memory.examples is not None
    return memory.examples.source_indices[memory.examples.labels == label].tolist()


@pytest.mark.parametrize("fixed", [False, True])
def test_content_matches_the_authors_after_each_step(fixed: bool) -> None:
    features, labels = HERDING["features"], HERDING["labels"]
    memory = make_memory(24, 6, fixed)
    for step in steps_of_two(examples(labels), 2):
        memory.update(step, memory.choose(step, features[step.train.source_indices]))
        name = f"memory24_fixed{int(fixed)}/after_task{step.number - 1}"
        assert memory.quota(step.num_seen_classes) == HERDING[f"{name}_per_class"]
        assert np.array_equal(memory.examples.source_indices, HERDING[f"{name}_indices"])
        assert np.array_equal(memory.examples.labels, HERDING[f"{name}_labels"])


def test_the_budget_holds_and_every_class_keeps_its_best() -> None:
    features = np.random.default_rng(0).normal(size=(240, 5))
    memory = RehearsalMemory(50)
    best: dict[int, list[int]] = {}
    for step in steps_of_two(examples(np.repeat(np.arange(8), 30)), 4):
        memory.update(step, memory.choose(step, features[step.train.source_indices]))
        counts = np.bincount(memory.examples.labels)
        assert len(memory) <= 50 and set(counts.tolist()) == {50 // step.num_seen_classes}
        for label in range(step.num_seen_classes):
            kept = herded(memory, label)
            assert kept == best.setdefault(label, kept)[: len(kept)]


def test_old_classes_with_too_few_exemplars_are_filled_from_merged_images() -> None:
    generator = np.random.default_rng(1)
    memory = RehearsalMemory(24)
    first = Step(1, ["a", "b"], (0, 2), examples(np.array([0] * 3 + [1] * 20)))
    memory.update(first, memory.choose(first, generator.normal(size=(23, 4))))
    had = [herded(memory, label) for label in (0, 1)]
    assert list(map(len, had)) == [3, 12]

    labels = np.array([2] * 9 + [3] * 9 + [0] * 10 + [1] * 10)
    features = generator.normal(size=(len(labels), 4))
    step = Step(2, ["c", "d"], (2, 4), examples(labels))
    memory.update(step, memory.choose(step, features))
    assert memory.examples.labels.tolist() == [label for label in range(4) for _ in range(6)]
    merged = np.flatnonzero(labels == 0)
    assert herded(memory, 0) == had[0] + merged[herd(features[merged], 3)].tolist()
    assert herded(memory, 1) == had[1][:6], "a class that has its share takes no more"
    assert memory.steps.tolist() == [1, 1, 1, 2, 2, 2] + [1] * 6 + [2] * 12


def test_a_saved_memory_is_loaded_without_the_files_of_its_images_and_does_not_name_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"john_smith_{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        PILImage.new("RGB", (4, 4), (number, 0, 0)).save(path)
    # Known by their path alone, or by their bytes with a name.
    images = [{"bytes": None, "path": str(path)} for path in paths[:6]]
    images += [{"bytes": path.read_bytes(), "path": "jane_doe.png"} for path in paths[6:]]
    memory = RehearsalMemory(8)
    for step in steps_of_two(examples(np.repeat(np.arange(4), 3), images), 2):
        memory.update(step, memory.choose(step, np.random.default_rng(step.number).normal(size=(6, 3))))
    file = tmp_path / "memory" / "step2.parquet"
    memory.save(file, ["a", "b", "c", "d"])
    for path in paths:
        path.unlink()

    content = file.read_bytes()
    assert not any(word in content for word in (b"smith", b"doe", str(tmp_path).encode()))
    columns = Dataset.from_parquet(str(file), cache_dir=str(tmp_path)).features
    assert list(columns) == ["image", "label", "class_name", "step", "source_index"]
    loaded = RehearsalMemory(8)
    loaded.load(file)
    assert np.array_equal(loaded.steps, memory.steps) and memory.steps.tolist() == [1] * 4 + [2] * 4
    assert np.array_equal(loaded.examples.labels, memory.examples.labels)
    for position, source in enumerate(memory.examples.source_indices):
        assert loaded.examples.image(position).getpixel((0, 0)) == (source, 0, 0)


def test_a_damaged_file_and_less_than_one_exemplar_a_class_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "step1.parquet"
    path.write_bytes(b"PAR1 truncated")
    with pytest.raises(InputError, match="step1.parquet cannot be read"):
        RehearsalMemory(4).load(path)
    with pytest.raises(InputError, match="--memory_size 9 is too small for 10 classes: give at least 10, 1 exemplar"):
        make_memory(9, 10, fixed=False)
    with pytest.raises(InputError, match="--memory_size 19 is too small for 10 classes: give at least 20, 2 exemplar"):
        make_memory(19, 10, fixed=False, min_exemplars=2)
