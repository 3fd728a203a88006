"""What a run shows and writes down while it trains: progress bars, `log.jsonl`, and a tracker if one is asked for."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from training.files import write_aside


def progress_bar(accelerator: Accelerator, items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar that shows on the main process alone, and only in a terminal; `options` are those of `tqdm`."""
    disable = None if accelerator.is_main_process else True
    return tqdm(items, disable=disable, leave=False, dynamic_ncols=True, **options)


class RunLog:
    """
    Appends records to `output_dir/log.jsonl` and to the tracker of the accelerator, from the main process alone.

    Args:
        accelerator (`Accelerator`): knows the main process and the tracker.
        output_dir (`Path`): folder of the run.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path) -> None:
        self.accelerator = accelerator
        self.path = output_dir / "log.jsonl"
        self.num_records = 0

    def resume_after(self, last_step: int) -> None:
        """Goes on after the records of the last complete step; those of a step that broke off are dropped."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= last_step]
        write_aside(self.path, "".join(f"{line}\n" for line in kept))
        self.num_records = len(kept)

    def write(self, record: dict[str, Any]) -> None:
        """Adds one record of numbers and names; `step` tells the step it belongs to."""
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.num_records += 1
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=self.num_records)
