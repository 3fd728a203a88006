"""A configuration that contradicts itself is refused; one that does not survives JSON."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from tests.modeling_dytox.small import RANGES, make_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_ranges": [[0, 2], [3, 5]]}, r"\[3, 5\] start at 2"),
        ({"class_ranges": [[0, 3], [2, 5]]}, r"\[2, 5\] start at 3"),
        ({"class_ranges": [[1, 3]]}, r"\[1, 3\] start at 0"),
        ({"class_ranges": [[0, 2], [2, 2]]}, r"\[2, 2\] start at . and hold at least one class"),
        ({"class_ranges": [[0, 2], [2, 1]]}, r"\[2, 1\] start at . and hold at least one class"),
        ({"class_ranges": [[0, 2, 4]]}, r"not a sequence of \[start, stop\) ranges"),
        ({"class_ranges": [[]]}, r"not a sequence of \[start, stop\) ranges"),
        ({"class_ranges": []}, "holds no step"),
        ({"class_ranges": [["0", "2"]]}, "class_ranges"),
        ({"class_ranges": [[0, 2], [2, 4]], "num_task_tokens": 3}, "num_task_tokens=3"),
        ({"num_task_tokens": 2}, "num_task_tokens=2"),
        ({"class_ranges": [[0, 2]], "id2label": {0: "a", 1: "b", 2: "c"}}, "id2label names 3"),
        ({"class_ranges": [[0, 2]], "id2label": {0: "a", 2: "b"}}, "label ids 0..1"),
        ({"class_ranges": [[0, 2]], "num_labels": 3}, "id2label names 3"),
        ({"hidden_size": 100}, "hidden_size=100 is not a multiple of num_attention_heads=12"),
        ({"image_size": 30}, "image_size=30 is not a multiple of patch_size=4"),
        ({"image_size": [32, 30]}, r"image_size=\[32, 30\] is not a multiple of patch_size=4"),
        ({"image_size": [32, 32, 32]}, "must be one size or a height and a width"),
        ({"image_size": 0}, "image_size=0 is not a multiple"),
        ({"patch_size": 0}, "not a multiple of patch_size=0"),
        ({"patch_size": 64}, "not a multiple of patch_size=64"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1"),
        ({"encoder_attention": "local"}, "encoder_attention"),
        ({"hidden_size": "384"}, "hidden_size"),
        ({"class_ranges": RANGES, "token_expansion": False, "num_task_tokens": 3}, "=3 but token_expansion=False"),
        ({"token_expansion": False, "num_task_tokens": 0}, "num_task_tokens=0 but token_expansion=False"),
        (
            {"class_ranges": RANGES, "independent_classifiers": False, "num_task_tokens": 1},
            "num_task_tokens=1 but class_ranges",
        ),
        ({"token_expansion": "no"}, "token_expansion"),
        ({"independent_classifiers": 0}, "independent_classifiers"),
        *(
            ({count: 0}, f"{count}=0 must be at least 1")
            for count in (
                "num_channels",
                "hidden_size",
                "num_hidden_layers",
                "num_task_attention_layers",
                "num_attention_heads",
                "intermediate_size",
            )
        ),
    ],
    ids=str,
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        DyToxConfig(**options)


def test_defaults_are_the_cifar_model_of_the_paper() -> None:
    config = DyToxConfig()
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (384, 12, 4 * 384)
    assert (config.num_hidden_layers, config.num_task_attention_layers) == (5, 1)
    assert (config.image_size, config.patch_size) == (32, 4)
    assert config.drop_path_rate == 0.1


@pytest.mark.parametrize(
    ("options", "num_task_tokens", "classifiers"),
    [
        ({"class_ranges": tuple(map(tuple, RANGES))}, 3, RANGES),
        ({"class_ranges": RANGES, "token_expansion": False}, 1, RANGES),
        ({"class_ranges": RANGES, "token_expansion": False, "num_task_tokens": 1}, 1, RANGES),
        ({"class_ranges": RANGES, "independent_classifiers": False}, 3, [[0, 9]]),
        ({"num_labels": 9}, 1, [[0, 9]]),
        ({"num_labels": 9, "token_expansion": False, "independent_classifiers": False}, 1, [[0, 9]]),
    ],
    ids=str,
)
def test_counts_follow_from_class_ranges(
    options: dict[str, Any], num_task_tokens: int, classifiers: list[list[int]]
) -> None:
    config = DyToxConfig(**options)
    assert config.num_task_tokens == num_task_tokens
    assert config.num_labels == len(config.id2label) == 9
    assert config.step_class_ranges == (RANGES if "class_ranges" in options else [[0, 9]])
    assert config.classifier_class_ranges == classifiers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_labels": 7},
        {"image_size": (8, 20), "patch_size": [4, 2]},
        {"class_ranges": ((0, 2), (2, 3)), "id2label": {0: "cat", 1: "dog", 2: "fox"}},
    ],
    ids=str,
)
def test_json_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    config = DyToxConfig(**options)
    config.save_pretrained(tmp_path)
    loaded = DyToxConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    for name in ("step_class_ranges", "image_height_width", "patch_height_width"):
        assert getattr(loaded, name) == getattr(config, name)


def test_num_labels_can_be_overridden_without_class_ranges(tmp_path: Path) -> None:
    make_model(class_ranges=None, num_labels=3).save_pretrained(tmp_path)
    assert DyToxConfig.from_pretrained(tmp_path, num_labels=6).step_class_ranges == [[0, 6]]
    model = DyToxForImageClassification.from_pretrained(tmp_path, num_labels=6, ignore_mismatched_sizes=True)
    assert model.classifiers[0].linear.out_features == model.config.num_labels == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"class_ranges": [[0, 3], [3, 7]]}, r"class_ranges=\[\[0, 3\], \[3, 7\]\]"),
        ({"num_task_tokens": 3}, "num_task_tokens=3"),
        ({"token_expansion": False}, "num_task_tokens=2 but token_expansion=False"),
    ],
    ids=str,
)
def test_a_saved_model_cannot_be_contradicted(tmp_path: Path, override: dict[str, Any], message: str) -> None:
    make_model().save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match=message):
        DyToxForImageClassification.from_pretrained(tmp_path, **override)
