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


def examples(labels: np.ndarray) -> Examples:
    """Images whose first pixel is their source index."""
    images = [PILImage.new("RGB", (4, 4), (index, 0, 0)) for index in range(len(labels))]
    dataset = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    return Examples(dataset, labels.astype(np.int64), np.arange(len(labels)))


def steps_of_two(labels: np.ndarray, num_steps: int) -> list[Step]:
    everything = examples(labels)
    return [
        Step(number, [str(start), str(start + 1)], (start, start + 2), everything.of_classes(start, start + 2))
        for number, start in enumerate(range(0, 2 * num_steps, 2), start=1)
    ]


@pytest.mark.parametrize("fixed", [False, True])
def test_content_matches_the_authors_after_each_step(fixed: bool) -> None:
    features, labels = HERDING["features"], HERDING["labels"]
    memory = make_memory(24, 6, fixed)
    for step in steps_of_two(labels, 2):
        memory.update(step, memory.choose(step, features[step.train.source_indices]))
        name = f"memory24_fixed{int(fixed)}/after_task{step.number - 1}"
        assert memory.quota(step.num_seen_classes) == HERDING[f"{name}_per_class"]
        assert np.array_equal(memory.examples.source_indices, HERDING[f"{name}_indices"])
        assert np.array_equal(memory.examples.labels, HERDING[f"{name}_labels"])


def test_the_budget_holds_and_every_class_keeps_its_best() -> None:
    labels = np.repeat(np.arange(8), 30)
    features = np.random.default_rng(0).normal(size=(240, 5))
    memory = RehearsalMemory(50)
    best: dict[int, list[int]] = {}
    for step in steps_of_two(labels, 4):
        memory.update(step, memory.choose(step, features[step.train.source_indices]))
        counts = np.bincount(memory.examples.labels)
        assert len(memory) <= 50 and set(counts.tolist()) == {50 // step.num_seen_classes}
        for label in range(step.num_seen_classes):
            kept = memory.examples.source_indices[memory.examples.labels == label].tolist()
            assert kept == best.setdefault(label, kept)[: len(kept)]


def test_saved_and_loaded_memory_is_the_same(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), 6)
    memory = RehearsalMemory(10)
    for step in steps_of_two(labels, 2):
        memory.update(step, memory.choose(step, np.random.default_rng(step.number).normal(size=(12, 3))))
    memory.save(tmp_path / "memory" / "step2.parquet", ["a", "b", "c", "d"])
    loaded = RehearsalMemory(10)
    loaded.load(tmp_path / "memory" / "step2.parquet")
    assert np.array_equal(loaded.steps, memory.steps) and memory.steps.tolist() == [1] * 4 + [2] * 4
    assert np.array_equal(loaded.examples.labels, memory.examples.labels)
    for position, source in enumerate(memory.examples.source_indices):
        assert loaded.examples.image(position).getpixel((0, 0)) == (source, 0, 0)
    columns = Dataset.from_parquet(str(tmp_path / "memory" / "step2.parquet"), cache_dir=str(tmp_path)).features
    assert list(columns) == ["image", "label", "class_name", "step", "source_index"]


def test_images_known_by_path_are_stored_with_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    PILImage.new("RGB", (4, 4), (7, 7, 7)).save(path)
    images = Dataset.from_dict({"image": [str(path)] * 2}, features=Features({"image": Image()}))
    train = Examples(images, np.array([0, 1]), np.array([0, 1]))
    memory = RehearsalMemory(2)
    memory.update(Step(1, ["a", "b"], (0, 2), train), np.array([0, 1]))
    memory.save(tmp_path / "memory.parquet", ["a", "b"])
    path.unlink()
    assert str(tmp_path).encode() not in (tmp_path / "memory.parquet").read_bytes()
    loaded = RehearsalMemory(2)
    loaded.load(tmp_path / "memory.parquet")
    assert loaded.examples.image(0).getpixel((0, 0)) == (7, 7, 7)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step1.parquet"
    path.write_bytes(b"PAR1 truncated")
    with pytest.raises(InputError, match="step1.parquet cannot be read"):
        RehearsalMemory(4).load(path)


def test_less_than_one_exemplar_a_class_is_refused() -> None:
    with pytest.raises(InputError, match="--memory_size 9 is smaller than the 10 classes"):
        make_memory(9, 10, fixed=False)


def test_old_classes_with_too_few_exemplars_are_filled_from_merged_images() -> None:
    """Against the rule spelled out: what a class has stays first, herding adds up to its share, labels stay sorted."""
    generator = np.random.default_rng(1)
    memory = RehearsalMemory(24)
    first = Step(1, ["a", "b"], (0, 2), examples(np.array([0] * 3 + [1] * 20)))
    memory.update(first, memory.choose(first, generator.normal(size=(23, 4))))
    had = {label: memory.examples.source_indices[memory.examples.labels == label].tolist() for label in (0, 1)}
    assert [len(had[0]), len(had[1])] == [3, 12]

    labels = np.array([2] * 9 + [3] * 9 + [0] * 10 + [1] * 10)
    step = Step(2, ["c", "d"], (2, 4), examples(labels))
    features = generator.normal(size=(len(labels), 4))
    memory.update(step, memory.choose(step, features))
    assert memory.examples.labels.tolist() == [label for label in range(4) for _ in range(6)]
    kept = {label: memory.examples.source_indices[memory.examples.labels == label].tolist() for label in range(4)}
    merged = np.flatnonzero(labels == 0)
    assert kept[0] == had[0] + merged[herd(features[merged], 3)].tolist()
    assert kept[1] == had[1][:6], "a class that has its share takes no more"
    assert memory.steps.tolist() == [1, 1, 1, 2, 2, 2] + [1] * 6 + [2] * 12


def test_a_cut_leaves_each_class_its_best() -> None:
    memory = RehearsalMemory(40)
    (step,) = steps_of_two(np.repeat(np.arange(2), 30), 1)
    memory.update(step, memory.choose(step, np.random.default_rng(0).normal(size=(60, 3))))
    before = memory.examples.source_indices.reshape(2, 20)
    memory.cut(8)
    assert memory.examples.source_indices.tolist() == before[:, :5].ravel().tolist() and len(memory) == 10
    RehearsalMemory(40).cut(8)


def test_no_name_of_a_file_is_saved(tmp_path: Path) -> None:
    image = tmp_path / "john_smith.png"
    PILImage.new("RGB", (4, 4)).save(image)
    rows = [{"bytes": None, "path": str(image)}, {"bytes": image.read_bytes(), "path": "jane_doe.png"}]
    dataset = Dataset.from_dict({"image": rows}, features=Features({"image": Image()}))
    memory = RehearsalMemory(10)
    step = Step(1, ["a"], (0, 1), Examples(dataset, np.zeros(2, dtype=np.int64), np.arange(2)))
    memory.update(step, np.array([0, 1]))
    memory.save(tmp_path / "memory.parquet", ["a"])
    assert b"smith" not in (tmp_path / "memory.parquet").read_bytes()
    assert b"doe" not in (tmp_path / "memory.parquet").read_bytes()
    loaded = RehearsalMemory(10)
    loaded.load(tmp_path / "memory.parquet")
    assert [loaded.examples.image(position).size for position in range(2)] == [(4, 4), (4, 4)]
