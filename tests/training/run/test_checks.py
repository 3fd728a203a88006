"""Broken images are found before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image as PILImage

from hub.run.errors import InputError
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.scenario import Scenario, make_scenario
from training.data.splits import LabelledSplits
from training.run import checks
from training.run.checks import check_images, check_precision, check_shared


class OneOf:
    """Stands for the accelerator of one of several processes."""

    is_main_process = False

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index = process_index
        self.num_processes = num_processes


@pytest.fixture
def scenario_with(
    make_examples: Callable[..., Examples],
    marked_image: Callable[[int], PILImage.Image],
    make_arguments: Callable[..., Arguments],
) -> Callable[..., Scenario]:
    """A scenario of two steps and twelve images a split; those in `broken[split]` are broken."""

    def make(**broken: list[int]) -> Scenario:
        def examples(split: str) -> Examples:
            rows = [b"broken" if row in broken.get(split, []) else marked_image(row) for row in range(12)]
            return make_examples(rows, [row % 2 for row in range(12)])

        splits = LabelledSplits(examples("train"), examples("test"), ["a", "b"])
        return make_scenario(splits, make_arguments(classes_per_step=1).data)

    return make


def test_good_images_pass(scenario_with: Callable[..., Scenario]) -> None:
    check_images(scenario_with(), Accelerator())


@pytest.mark.parametrize(("split", "kind"), [("train", "training"), ("test", "test")])
@pytest.mark.parametrize("row", range(12))
def test_a_broken_image_of_any_step_is_named(
    scenario_with: Callable[..., Scenario], split: str, kind: str, row: int
) -> None:
    with pytest.raises(InputError, match=f"In the {kind} split: The image in row {row} cannot be read"):
        check_images(scenario_with(**{split: [row]}), Accelerator())


@pytest.mark.parametrize("num_processes", [2, 3, 5])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_processes_share_out_the_images(scenario_with: Callable[..., Scenario], num_processes: int, row: int) -> None:
    scenario = scenario_with(train=[row])
    found = 0
    for process_index in range(num_processes):
        accelerator: Any = OneOf(process_index, num_processes)
        try:
            check_images(scenario, accelerator)
        except InputError:
            found += 1
    assert found == 1


def test_of_a_large_split_only_some_are_read(
    scenario_with: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MAX_CHECKED_IMAGES", 4)
    read = []
    image = Examples.image

    def spy(examples: Examples, position: int) -> PILImage.Image:
        read.append(position)
        return image(examples, position)

    monkeypatch.setattr(Examples, "image", spy)
    check_images(scenario_with(), Accelerator())
    for split in (read[:4], read[4:]):
        assert len(split) == len(set(split)) == 4
        assert (split[0], split[-1]) == (0, 11)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_script_finds_a_broken_image_before_it_makes_a_folder(
    run_script: Callable[..., Any],
    write_image_folder: Callable[..., Path],
    noise_image: Callable[..., PILImage.Image],
    tmp_path: Path,
    split: str,
) -> None:
    # The class of the last step: training would reach it after hours.
    names = ("a", "b", "c")
    images: dict[str, dict[str, list[Any]]] = {
        name: {label: [noise_image(0), noise_image(1)] for label in names} for name in ("train", "test")
    }
    images[split]["c"][1] = b"\x89PNG\r\n\x1a\n broken"
    folder, output = write_image_folder(images), tmp_path / "run"
    outcome = run_script("--dataset_name", str(folder), "--classes_per_step", "1", "--output_dir", str(output))
    assert outcome.status == 2
    (line,) = outcome.errors.splitlines()
    assert line.startswith(f"error: In the {'training' if split == 'train' else split} split: The image in row 5 ")
    assert not output.exists()


def fake_accelerator(device: str, mixed_precision: str) -> Any:
    return SimpleNamespace(device=torch.device(device), mixed_precision=mixed_precision)


def test_float16_is_refused_where_it_does_not_work(make_arguments: Callable[..., Arguments]) -> None:
    with pytest.raises(InputError, match="--mixed_precision fp16 needs a GPU: choose bf16 or no"):
        check_precision(make_arguments(), fake_accelerator("cpu", "fp16"))
    with pytest.raises(InputError, match=r"--sam_rho 3.0 does not work in float16.*choose --mixed_precision bf16"):
        check_precision(make_arguments(sam_rho=3.0), fake_accelerator("cuda", "fp16"))


@pytest.mark.parametrize(("device", "precision", "rho"), [("cpu", "bf16", 3), ("cuda", "fp16", 0), ("cpu", "no", 3)])
def test_other_precisions_pass(
    make_arguments: Callable[..., Arguments], device: str, precision: str, rho: float
) -> None:
    check_precision(make_arguments(sam_rho=rho), fake_accelerator(device, precision))


def test_processes_that_do_not_see_the_folder_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shared(tmp_path, Accelerator())
    assert list(tmp_path.iterdir()) == []
    # What the others answer: one of them is on a machine without the folder.
    monkeypatch.setattr(checks, "gather_object", lambda mine: [*mine, False])
    with pytest.raises(
        InputError, match="is not the same folder for every process: choose one on a disk that all machines"
    ):
        check_shared(tmp_path, Accelerator())


def test_equal_images_have_equal_fingerprints_on_any_number_of_processes(
    scenario_with: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = scenario_with()
    alone = check_images(scenario, Accelerator())
    assert alone == check_images(scenario_with(), Accelerator()) and alone["training"] != "" != alone["test"]
    for num_processes in (2, 3):
        shares = [
            [checks._look_at_images(examples, "", OneOf(process, num_processes)) for process in range(num_processes)]  # type: ignore[arg-type]
            for examples in (scenario.train, scenario.test)
        ]
        gathered = iter(shares)
        monkeypatch.setattr(checks, "gather_object", lambda mine, gathered=gathered: next(gathered))
        assert check_images(scenario, Accelerator()) == alone


def test_images_that_change_places_change_the_fingerprint(
    make_examples: Callable[..., Examples],
    marked_image: Callable[[int], PILImage.Image],
    make_arguments: Callable[..., Arguments],
) -> None:
    def fingerprint(rows: list[int], names: list[str]) -> str:
        examples = make_examples([marked_image(row) for row in rows], [row % 2 for row in range(len(rows))])
        splits = LabelledSplits(examples, examples, names)
        scenario = make_scenario(splits, make_arguments(classes_per_step=1).data)
        return check_images(scenario, Accelerator())["training"]

    fingerprints = [fingerprint([0, 1, 2, 3], ["a", "b"]), fingerprint([0, 3, 2, 1], ["a", "b"])]
    fingerprints += [fingerprint([0, 1, 2, 4], ["a", "b"]), fingerprint([0, 1, 2, 3], ["a", "c"])]
    assert len(set(fingerprints)) == 4
