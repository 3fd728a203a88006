"""What a run reports while it trains: progress bars, `log.jsonl`, and the tracker if one is asked for."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from hub.run.atomic import write_aside
from hub.run.layout import LOG_FILE
from training.loop.disk import disk_errors_named


def progress_bar(accelerator: Accelerator, items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """
    A bar that shows on the main process alone, and only in a terminal.

    Args:
        accelerator (`Accelerator`): gives the main process.
        items (`Iterable`, *optional*): what to iterate over.
        **options: of `tqdm`.
    """
    disable = None if accelerator.is_main_process else True
    return tqdm(items, disable=disable, leave=False, dynamic_ncols=True, **options)


class RunLog:
    """
    Appends records to `output_dir/log.jsonl` and to the tracker of the accelerator, from the main process alone.

    Args:
        accelerator (`Accelerator`): gives the main process and the tracker.
        output_dir (`Path`): folder of the run.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path) -> None:
        self.accelerator = accelerator
        self.path = output_dir / LOG_FILE
        self.num_records = 0

    def resume_after_step(self, step: int) -> None:
        """Drops the records after the last finished step, so that the next one follows."""
        if self.accelerator.is_main_process:
            self._keep([line for line, record in self._records() if record["step"] <= step])

    def resume_after_record(self, num_records: int) -> None:
        """Drops all but the first `num_records` records, so that the next one follows."""
        if self.accelerator.is_main_process:
            self._keep([line for line, _ in self._records()][:num_records])

    def write(self, record: dict[str, Any]) -> None:
        """
        Adds one record.

        Args:
            record (`dict[str, Any]`): numbers and names, with the `step` they belong to. The tracker gets the numbers,
                those of a sequence one by one, from `name/1` on.

        Raises:
            InputError: the disk is full, or cannot be written.
        """
        if not self.accelerator.is_main_process:
            return
        with disk_errors_named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.num_records += 1
        self.accelerator.log(dict(_numbers(record)), step=self.num_records)

    def _records(self) -> list[tuple[str, dict[str, Any]]]:
        """The lines that are records, with their content; a line that was cut off or damaged is none."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append((line, record))
        return records

    def _keep(self, lines: list[str]) -> None:
        if self.path.exists():
            with disk_errors_named(self.path):
                write_aside(self.path, "".join(f"{line}\n" for line in lines))
            self.num_records = len(lines)


def _numbers(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, list | tuple):
            yield from _numbers({f"{name}/{place}": item for place, item in enumerate(value, 1)})
        elif isinstance(value, int | float):
            yield name, value


class Stopwatch:
    """
    The time that a step takes, over all the times it was resumed.

    Args:
        seconds_before (`float`): spent on it before it was resumed.
    """

    def __init__(self, seconds_before: float = 0.0) -> None:
        self.started = time.perf_counter() - seconds_before

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return time.perf_counter() - self.started
