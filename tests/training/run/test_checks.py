"""Precision, images and disk are checked before anything is trained."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image as PILImage

from hub.run.errors import InputError
from tests.command_line import words as command_line
from tests.training.conftest import Outcome
from training.arguments import Arguments
from training.data.examples import Examples
from training.data.scenario import Scenario, make_scenario
from training.data.splits import LabelledSplits
from training.methods import Phase
from training.run import checks
from training.run.checks import StepSize, check_disk, check_images, check_precision, check_shared_memory


MakeScenario = Callable[..., Scenario]


def one_of(num_processes: int, process_index: int) -> Any:
    """Stands for the accelerator of one of several processes."""
    return SimpleNamespace(is_main_process=False, num_processes=num_processes, process_index=process_index)


@pytest.fixture
def scenario_of(
    make_examples: Callable[..., Examples],
    marked_image: Callable[[int], PILImage.Image],
    make_arguments: Callable[..., Arguments],
) -> MakeScenario:
    """A scenario of two steps whose images have these numbers, in both splits; those in `broken[split]` are broken."""

    def make(
        numbers: Any = range(12), class_names: tuple[str, str] = ("a", "b"), offset: int = 0, **broken: list[int]
    ) -> Scenario:
        def examples(split: str) -> Examples:
            first = offset * (split == "test")
            rows = [b"broken" if n in broken.get(split, []) else marked_image(n + first) for n in numbers]
            return make_examples(rows, [row % 2 for row in range(len(rows))])

        splits = LabelledSplits(examples("train"), examples("test"), list(class_names))
        return make_scenario(splits, make_arguments(classes_per_step=1).data)

    return make


def error_of(scenario: Scenario, accelerator: Any) -> str | None:
    try:
        check_images(scenario, accelerator)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("split", "kind"), [("train", "training"), ("test", "test")])
def test_a_broken_image_of_any_step_is_named_by_one_process(scenario_of: MakeScenario, split: str, kind: str) -> None:
    assert error_of(scenario_of(), Accelerator()) is None
    for row in range(12):
        scenario = scenario_of(**{split: [row]})
        named = f"In the {kind} split: The image in row {row} cannot be read"
        assert named in str(error_of(scenario, Accelerator()))
        errors = [error_of(scenario, one_of(3, process)) for process in range(3)]
        assert [named in str(error) for error in errors if error] == [True]


def test_of_a_large_split_images_at_even_distances_are_read(
    scenario_of: MakeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MAX_CHECKED_IMAGES", 4)
    read = [row for row in range(12) if error_of(scenario_of(train=[row]), Accelerator())]
    assert (len(read), read[0], read[-1]) == (4, 0, 11)
    assert min(after - before for before, after in zip(read, read[1:], strict=False)) >= 3


def test_the_script_finds_a_broken_image_before_it_makes_a_folder(
    run_script: Callable[..., Outcome], write_image_folder: Callable[..., Path], noise_image: Any, tmp_path: Path
) -> None:
    images = {split: {name: [noise_image(0), noise_image(1)] for name in "abc"} for split in ("train", "test")}
    # The class of the last step: training would reach it after hours.
    images["train"]["c"][1] = b"\x89PNG\r\n\x1a\n broken"
    options = {"dataset_name": write_image_folder(images), "classes_per_step": 1, "output_dir": tmp_path / "run"}
    refusal = run_script(*command_line(options)).refusal
    assert refusal.startswith(
        f"error: In the training split: The image {tmp_path}/images/train/c/001.png cannot be read"
    )
    assert not (tmp_path / "run").exists()


def test_equal_images_have_equal_fingerprints_on_any_number_of_processes(
    scenario_of: MakeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = check_images(scenario_of(), Accelerator())
    for num_processes in (2, 3):
        sent: list[list[Any]] = []
        monkeypatch.setattr(checks, "gather_object", lambda share, sent=sent: sent.append(share) or share)
        for process in range(num_processes):
            check_images(scenario_of(), one_of(num_processes, process))
        gathered = iter([sum(sent[0::2], []), sum(sent[1::2], [])])
        monkeypatch.setattr(checks, "gather_object", lambda share, gathered=gathered: next(gathered))
        assert check_images(scenario_of(), one_of(num_processes, 0)) == alone


def test_other_images_places_and_names_have_other_fingerprints(scenario_of: MakeScenario) -> None:
    scenarios = [scenario_of([0, 1, 2, 3]), scenario_of([0, 3, 2, 1]), scenario_of([0, 1, 2, 4])]
    scenarios.append(scenario_of([0, 1, 2, 3], ("a", "c")))
    assert len({check_images(scenario, Accelerator()).fingerprints["training"] for scenario in scenarios}) == 4


@pytest.mark.parametrize(("offset", "num_equal"), [(0, 12), (10, 2), (12, 0)])
def test_test_images_that_are_learned_from_are_counted(
    scenario_of: MakeScenario, monkeypatch: pytest.MonkeyPatch, offset: int, num_equal: int
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(checks.logger, "warning", warnings.append)
    scenario = scenario_of(offset=offset)
    check_images(scenario, Accelerator())
    assert [warning.partition(" ")[0] for warning in warnings] == ([str(num_equal)] if num_equal else [])
    # Exemplars of a published memory are learned from as well.
    check_images(scenario, Accelerator(), exemplars=scenario.test.select(range(5)))
    assert warnings[-1].startswith(f"{max(num_equal, 5) if offset else 12} test image(s) are equal")


def test_float16_is_refused_where_it_does_not_work() -> None:
    def check(device: str, precision: str, sam_rho: float) -> None:
        accelerator: Any = SimpleNamespace(device=torch.device(device), mixed_precision=precision)
        check_precision(accelerator, [Phase("main", "new", 1, 1e-3, sam_rho=sam_rho)])

    with pytest.raises(InputError, match="--mixed_precision fp16 needs a GPU: choose bf16 or no"):
        check("cpu", "fp16", 0)
    with pytest.raises(InputError, match=r"--sam_rho 3 does not work in float16.*choose --mixed_precision bf16"):
        check("cuda", "fp16", 3)
    for device, precision, sam_rho in (("cpu", "bf16", 3), ("cuda", "fp16", 0), ("cpu", "no", 3)):
        check(device, precision, sam_rho)


@pytest.mark.parametrize(("num_bytes", "unit"), [(3_000_000, "MB"), (300_000_000, "GB")])
def test_a_disk_too_small_is_refused_with_sizes_that_can_be_read(
    scenario_of: MakeScenario, tmp_path: Path, monkeypatch: Any, num_bytes: int, unit: str
) -> None:
    train, sizes = scenario_of().train, [StepSize(size, 3 * size) for size in (num_bytes // 2, num_bytes)]
    old = tmp_path / "run" / "checkpoints" / "state"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(500_000))

    def check(free: float, sizes: list[StepSize] = sizes) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        check_disk(tmp_path / "run", sizes, 20, train, old.parent)

    # What the run will replace counts as free.
    with pytest.raises(InputError, match="has 0.5 MB of free disk, the run needs about .*: make room") as caught:
        check(free=0)
    number, found_unit = str(caught.value).partition("about ")[2].partition(":")[0].split()
    assert found_unit == unit and 1 <= float(number) < 1000
    needed = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
    check(needed * 1.1)
    check(free=0, sizes=[])
    with pytest.raises(InputError):
        check(needed * 0.9)


def test_shared_memory_that_workers_would_wait_for_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64e6))
    # Two workers load two batches ahead each: 4 * 32 * 3 * 224 * 224 * 4 bytes = 77.1 MB.
    message = (
        r"--num_workers 2 needs 77.1 MB of shared memory, .* has 64.0 MB: choose --num_workers 0, or .* --shm-size"
    )
    with pytest.raises(InputError, match=message):
        check_shared_memory(2, 32, (224, 224))
    check_shared_memory(2, 26, (224, 224))
    check_shared_memory(0, 1000, (224, 224))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(InputError):
        check_shared_memory(2, 26, (224, 224))
