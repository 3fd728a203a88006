"""Kept features: each image gets those of its own row, table and view, however they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image

from modeling_dytox.image_processing import make_image_processor
from training.data.batches import BatchLayout, TrainingBatches
from training.data.examples import Examples, concatenate
from training.data.features import FeatureSource, FeatureTable, read_features
from training.data.loading import EvalTransform, TrainingLoader, augmentation_seed, evaluation_batches


NUM_ROWS, SHAPE = 70, (3, 4)
Drawn = dict[str, list[np.ndarray]]


def make_table(folder: Path, dtype: str, num_views: int) -> tuple[FeatureTable, list[np.ndarray]]:
    """A table of random features, and the same in memory, one array a view."""
    table = FeatureTable(folder, NUM_ROWS, {"tokens": SHAPE}, dtype, num_views)
    random = np.random.default_rng(num_views)
    views = [random.normal(size=(NUM_ROWS, *SHAPE)).astype(dtype) for _ in range(num_views)]
    for view, values in enumerate(views):
        for batch in range(table.num_batches):
            table.write(batch, view, {"tokens": values[table.rows_of(batch)]})
    return table, views


def make_examples(source_indices: np.ndarray) -> Examples:
    """Examples without pixels: whoever decodes one fails."""
    images = Dataset.from_dict({"image": [None] * len(source_indices)}, features=Features({"image": Image()}))
    return Examples(images, source_indices % 7, source_indices)


@pytest.fixture(params=[1, 3], ids=["one view", "three views"])
def known(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FeatureSource, Drawn, np.ndarray]:
    """Features of training, test and memory, what they are, and the source index of each training row."""
    train, views = make_table(tmp_path / "train", "float16", request.param)
    test, test_views = make_table(tmp_path / "test", "float32", 1)
    sources = np.random.default_rng(0).permutation(NUM_ROWS) * 2
    others = np.random.default_rng(1).normal(size=(5, *SHAPE)).astype("float32")
    source = FeatureSource("tokens", train, test, sources, lambda examples: others[: len(examples)])
    return source, {"train": views, "test": test_views, "memory": [others]}, sources


def test_a_mixture_of_tables_is_read_image_by_image(known: tuple[FeatureSource, Drawn, np.ndarray]) -> None:
    source, drawn, sources = known
    own = source.of_train(make_examples(sources[[4, 0, 9, 4]]))
    memory = source.of_memory(make_examples(np.array([3, int(sources[8]), 5])), np.array([False, True, False]))
    mixed = concatenate([own, memory, source.of_test(make_examples(np.arange(NUM_ROWS)))])
    expected = [
        *drawn["train"][0][[4, 0, 9, 4]],
        drawn["memory"][0][0],
        drawn["train"][0][8],
        drawn["memory"][0][1],
        *drawn["test"][0],
    ]
    order = np.random.default_rng(2).permutation(len(mixed))
    found = read_features(mixed, order)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), np.stack(expected)[order].astype("float32"))


def test_the_loaders_give_each_image_its_row_and_its_view(known: tuple[FeatureSource, Drawn, np.ndarray]) -> None:
    source, drawn, sources = known
    examples = source.of_train(make_examples(sources))
    loader = TrainingLoader(examples, torch.as_tensor, TrainingBatches(NUM_ROWS, BatchLayout(16)), num_workers=2)
    for epoch, updates in enumerate(loader.epochs(range(2), 5, "main")):
        seen = [batch for (batch,) in updates]
        rows = torch.cat([batch.images for batch in seen]).numpy()
        labels = torch.cat([batch.labels for batch in seen]).numpy()
        expected = {}
        for row, index in enumerate(sources):
            view = augmentation_seed((5, "main", epoch), index) % len(drawn["train"])
            expected[drawn["train"][view][row].astype("float32").tobytes()] = index % 7
        assert {row.tobytes(): label for row, label in zip(rows, labels, strict=True)} == expected
    processed = EvalTransform(make_image_processor(8))
    batches = evaluation_batches(examples, processed, batch_size=32, num_workers=2)
    found = torch.cat([batch.images for batch in batches]).numpy()
    assert np.array_equal(found, drawn["train"][0].astype("float32"))


def test_every_number_of_float16_is_widened_exactly(tmp_path: Path) -> None:
    numbers = np.arange(1 << 16, dtype="uint16").view("float16").reshape(-1, 1)
    numbers = numbers[np.isfinite(numbers)].reshape(-1, 1)
    table = FeatureTable(tmp_path, len(numbers), {"pooled": (1,)}, "float16")
    for batch in range(table.num_batches):
        table.write(batch, 0, {"pooled": numbers[table.rows_of(batch)]})
    found = table.read("pooled", np.arange(len(numbers))).numpy()
    assert np.array_equal(found.view("uint32"), numbers.astype("float32").view("uint32"))
