"""What a run writes down while it trains: `log.jsonl`, and a tracker if one is asked for."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator


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

    def write(self, record: dict[str, Any]) -> None:
        """Adds one record of numbers and names."""
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.num_records += 1
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=self.num_records)
