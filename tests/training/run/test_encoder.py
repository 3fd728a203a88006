"""Runs with a pretrained encoder: what it costs, what is kept, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    ConvNextImageProcessor,
    ResNetConfig,
    Siglip2VisionConfig,
    SiglipImageProcessor,
    TimmWrapperConfig,
    ViTConfig,
    ViTImageProcessor,
)

from hub.run.errors import InputError
from modeling_dytox import DyToxModel, FeatureHeadModel
from tests.command_line import words
from tests.training.conftest import Outcome, train
from training.arguments import Arguments
from training.data.features import BATCH_ROWS
from training.run.encoder import load_encoder
from training.run.encoder_processor import make_encoder_processor


Make = Callable[..., Arguments]


@pytest.fixture
def options(tiny_encoder: Path, tiny_options: dict[str, object], tmp_path: Path) -> dict[str, object]:
    sizes = {"image_size": None, "patch_size": None, "num_classes": 4}
    cache = {"encoder_name_or_path": tiny_encoder, "feature_cache_dir": tmp_path / "features"}
    return tiny_options | sizes | cache


def content_of(folder: Path) -> dict[str, bytes]:
    """Weights and memory of a run."""
    files = [*folder.glob("step*/*.safetensors"), *folder.glob("memory/*.parquet")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def accuracies(folder: Path) -> list[Any]:
    return [step["accuracy_per_step"] for step in json.loads((folder / "results.json").read_text())["steps"]]


@pytest.mark.slow
def test_a_frozen_encoder_sees_each_image_once_whatever_the_runs_and_the_damage(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def count(kind: Any) -> None:
        features = kind.features

        def counted(self: Any, pixel_values: torch.Tensor) -> Any:
            seen.append(len(pixel_values))
            return features(self, pixel_values)

        monkeypatch.setattr(kind, "features", counted)

    count(DyToxModel)
    count(FeatureHeadModel)
    first = train(options | {"output_dir": tmp_path / "first"})
    # 12 training and 6 test images a class, and one to learn the shapes.
    assert sum(seen) == 4 * 18 + 1
    assert len({(first / f"step{step}" / SHARD).read_bytes() for step in (1, 2)}) == 1
    assert not any("augmentation" in line for line in (first / "log.jsonl").read_text().splitlines())

    seen.clear()
    # Another order of the classes and another method: the images are the same.
    train(options | {"output_dir": tmp_path / "other", "class_order": ["3", "0", "2", "1"], "method": "replay"})
    assert sum(seen) == 1

    seen.clear()
    # Pooled features do not depend on the map that gives the tokens.
    train(options | {"output_dir": tmp_path / "pooled", "method": "ncm", "encoder_output": 1})
    assert sum(seen) == 1

    tables = sorted((tmp_path / "features").glob("*/tokens0.bin"))
    assert len(tables) == 2
    for table in tables:
        content = bytearray(table.read_bytes())
        content[-1] ^= 1
        table.write_bytes(content)
    seen.clear()
    again = train(options | {"output_dir": tmp_path / "again"})
    # The damaged batch of each table: 48 training rows are two batches, 24 test rows are one.
    assert sum(seen) == 1 + 48 % BATCH_ROWS + 24
    assert content_of(again) == content_of(first)


SHARD, HEAD_SHARD = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.mark.slow
def test_features_in_place_of_images_change_nothing_but_rounding(options: dict[str, object], tmp_path: Path) -> None:
    plain = {"auto_augment": "none", "horizontal_flip": False, "train_crop": "none", "drop_path_rate": 0.0}
    live = train(options | plain | {"cached_views": 0, "output_dir": tmp_path / "live"})
    cached = train(options | plain | {"output_dir": tmp_path / "cached"})
    assert not (live / "features").exists()
    for name, content in content_of(live).items():
        if name.endswith(HEAD_SHARD):
            ours, theirs = load(content), load((cached / name).read_bytes())
            for tensor in ours:
                torch.testing.assert_close(theirs[tensor], ours[tensor], rtol=0, atol=2e-2)
    np.testing.assert_allclose(np.array(accuracies(live)[-1]), np.array(accuracies(cached)[-1]), atol=0.1)


def test_a_batch_normalisation_gives_kept_features_what_it_gives_images(
    options: dict[str, object], tmp_path: Path
) -> None:
    fields = {"embedding_size": 4, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    encoder = AutoModel.from_config(AutoConfig.for_model("resnet", **fields))
    for name, buffer in encoder.named_buffers():
        # Far from the statistics of any batch, by which train mode would normalise.
        if name.endswith("running_var"):
            buffer.fill_(9)
    encoder.save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    own = options | {"encoder_name_or_path": tmp_path / "resnet", "image_size": 32, "method": "ncm"}
    runs = [train(own | {"cached_views": views, "output_dir": tmp_path / str(views)}) for views in (0, 1)]
    live, cached = (load((run / "step2" / HEAD_SHARD).read_bytes()) for run in runs)
    assert live["head.weight"].count_nonzero(dim=1).min() > 1
    torch.testing.assert_close(cached["head.weight"], live["head.weight"], rtol=0, atol=1e-3)


def test_views_of_an_image_are_drawn_and_the_run_says_so(
    options: dict[str, object], run_script: Callable[..., Outcome], tmp_path: Path
) -> None:
    chosen = options | {"num_classes": 2, "cached_views": 3, "output_dir": tmp_path / "run"}
    words = [part for name, value in chosen.items() if value is not None for part in (f"--{name}", str(value))]
    done = run_script(*words)
    assert done.status == 0, done.errors
    assert "Each training image is seen by the frozen encoder in 3 views, 2 of them augmented." in done.output
    (training,) = [folder for folder in (tmp_path / "features").iterdir() if (folder / "tokens2.bin").exists()]
    views = [(training / f"tokens{view}.bin").read_bytes() for view in range(3)]
    assert len(set(views)) == 3


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (ViTImageProcessor(), {}),
        (ViTImageProcessor(size={"height": 96, "width": 96}, resample=3, image_std=[0.2, 0.3, 0.4]), {}),
        (CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}), {}),
        (BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}), {}),
        (SiglipImageProcessor(size={"height": 64, "width": 64}), {}),
        (ConvNextImageProcessor(size={"shortest_edge": 64}), {}),
        (ConvNextImageProcessor(size={"shortest_edge": 384}), {}),
        (ViTImageProcessor(size={"height": 64, "width": 64}, do_normalize=False), {}),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'size', '')}",
)
def test_our_processor_gives_the_pixels_of_the_encoders_own(own: Any, config: Any, tmp_path: Path) -> None:
    own.save_pretrained(tmp_path)
    ours = make_encoder_processor(str(tmp_path), None, ViTConfig(), None, center_crop=True)
    ours.save_pretrained(tmp_path / "ours")
    ours = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    for size in ((100, 100), (130, 90), (70, 150)):
        image = PILImage.fromarray(np.random.default_rng(sum(size)).integers(0, 255, (*size, 3), dtype=np.uint8))
        expected = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
        found = ours(image, return_tensors="pt")["pixel_values"]
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Another size keeps the part of the image that is seen; without the crop all of it is.
    assert make_encoder_processor(str(tmp_path), None, ViTConfig(), 32, center_crop=False).size == {
        "height": 32,
        "width": 32,
    }


def save(config: Any, folder: Path, **extra: Any) -> Path:
    AutoModel.from_config(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    if extra:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    return folder


SMALL: Mapping[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_what_cannot_be_an_encoder_is_refused_in_one_line(
    make_arguments: Make, tmp_path: Path, tiny_encoder: Path
) -> None:
    def refuse(**options: Any) -> str:
        with pytest.raises(InputError) as caught:
            load_encoder(make_arguments(**options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    bert = save(BertConfig(**SMALL, intermediate_size=16), tmp_path / "bert")
    assert "is a bert, no vision model: choose one such as vit" in refuse(encoder_name_or_path=bert)
    naflex = tmp_path / "naflex"
    Siglip2VisionConfig(**SMALL).save_pretrained(naflex)
    assert "NaFlex" in refuse(encoder_name_or_path=naflex)
    grey = save(ViTConfig(**SMALL, num_channels=1, image_size=32), tmp_path / "grey")
    assert "takes images of 1 channels, images are read as RGB" in refuse(encoder_name_or_path=grey)
    code = save(ViTConfig(**SMALL), tmp_path / "code", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    assert "needs code of its own" in refuse(encoder_name_or_path=code)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no config that transformers can read" in refuse(encoder_name_or_path=empty)
    torn = shutil.copytree(tiny_encoder, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"half")
    assert "cannot be loaded" in refuse(encoder_name_or_path=torn)
    bare = shutil.copytree(tiny_encoder, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "has no image processor that can be used" in refuse(encoder_name_or_path=bare)
    clip = save(CLIPVisionConfig(**SMALL, intermediate_size=16, image_size=32, patch_size=16), tmp_path / "clip")
    assert load_encoder(make_arguments(encoder_name_or_path=clip))[1] is not None

    assert "--encoder_type bird is unknown" in refuse(encoder_type="bird")
    assert "is not JSON of fields" in refuse(encoder_type="resnet", encoder_options="depth=3")
    assert "cannot be used as an encoder of images of 2 pixels" in refuse(encoder_type="vit", image_size=2)
    assert "keeps what a frozen encoder makes" in refuse(
        encoder_name_or_path=tiny_encoder, freeze_encoder="false", cached_views=2
    )
    assert "copies the encoder for each step" in refuse(encoder_name_or_path=tiny_encoder, method="der")
    for options, message in (
        ({"freeze_encoder": "true"}, "--freeze_encoder True needs an encoder"),
        ({"encoder_options": "{}"}, "--encoder_options {} needs --encoder_type"),
        ({"encoder_output": 1}, "--encoder_output 1 needs an encoder"),
        ({"encoder_name_or_path": tiny_encoder, "encoder_type": "vit"}, "give one"),
        ({"encoder_type": "vit", "freeze_encoder": "true"}, "would keep random weights"),
        ({"encoder_name_or_path": tiny_encoder, "model_name_or_path": "org/name"}, "has an encoder already"),
    ):
        with pytest.raises(InputError, match=message):
            make_arguments(method="dytox", **options)


WITHOUT_TIMM = """
import sys
sys.modules["timm"] = None
from training import incremental
options = sys.argv[3:]
for encoder in sys.argv[1:3]:
    sys.argv[1:] = [*options, "--encoder_name_or_path", encoder]
    try:
        incremental.main()
    except SystemExit as end:
        print(end.code)
"""


def test_without_timm_its_models_are_refused_in_one_line(
    tiny_encoder: Path, tiny_options: dict[str, object], tmp_path: Path, root: Path
) -> None:
    timm = save(TimmWrapperConfig(architecture="test_convnext"), tmp_path / "timm")
    options = tiny_options | {"image_size": None, "method": "ncm", "encoder_name_or_path": None}
    command = [sys.executable, "-c", WITHOUT_TIMM, str(timm), str(tiny_encoder), *words(options)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "2"], done.stderr[-2000:]
    of_timm, of_augmentation = done.stderr.splitlines()
    assert of_timm.startswith(f"error: --encoder_name_or_path {timm} needs a package that is missing (")
    assert of_timm.endswith("): pip install timm.")
    # Training needs it as well.
    expected = "error: --auto_augment rand-m9-mstd0.5-inc1 needs timm: pip install timm, or choose none."
    assert of_augmentation == expected


def test_a_cache_that_is_too_small_is_refused_before_anything_is_computed(
    options: dict[str, object], run_script: Callable[..., Outcome], tmp_path: Path
) -> None:
    chosen = options | {"feature_cache_gb": 1e-6, "output_dir": tmp_path / "run"}
    words = [part for name, value in chosen.items() if value is not None for part in (f"--{name}", str(value))]
    assert "--feature_cache_gb 1e-06 is too small: the features of this run take" in run_script(*words).refusal
    assert not list((tmp_path / "features").glob("*"))


def test_a_map_of_one_token_is_named_with_a_size_that_gives_more(
    options: dict[str, object], run_script: Callable[..., Outcome]
) -> None:
    fields = '{"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}'
    chosen = options | {"encoder_name_or_path": None, "encoder_type": "resnet", "encoder_options": fields}
    small, enlarged = (run_script(*words(chosen | {"image_size": size, "dry_run": True})) for size in (32, 128))
    assert "One token an image: of 32 pixels the encoder makes a map of 1x1" in small.output
    assert "A larger --image_size, such as 128, gives more." in small.output
    assert enlarged.status == 0 and "One token" not in enlarged.output
    assert "The encoder trains batch normalisation" in enlarged.output


def test_an_encoder_from_scratch_learns(options: dict[str, object], tmp_path: Path) -> None:
    fields = '{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}'
    chosen = {"encoder_name_or_path": None, "encoder_type": "resnet", "encoder_options": fields, "image_size": 32}
    folder = train(options | chosen | {"output_dir": tmp_path / "run"})
    first, second = ((folder / f"step{step}" / "model.safetensors").read_bytes() for step in (1, 2))
    assert first != second and not (tmp_path / "features").exists()
    # Its batch normalisation trains on the images of one process.
    assert json.loads((folder / "step2" / "results.json").read_text())["exact_across_processes"] is False
    assert (
        "batch normalisation, whose statistics are of the images on one process"
        in (folder / "step2" / "README.md").read_text()
    )


def test_only_a_batch_normalisation_that_trains_depends_on_the_processes(
    tiny_encoder: Path, make_arguments: Make, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}
    resnet = save(ResNetConfig(**sizes), tmp_path / "resnet")

    def depends(folder: Path, freeze_encoder: bool) -> bool:
        arguments = make_arguments(encoder_name_or_path=folder, freeze_encoder=freeze_encoder)
        _, encoder = load_encoder(arguments)
        assert encoder is not None
        return encoder.trains_batch_norm

    assert depends(resnet, freeze_encoder=False)
    assert not depends(resnet, freeze_encoder=True) and not depends(tiny_encoder, freeze_encoder=False)
