"""
Runs `training/incremental.py` in children of one process that has imported everything, so that a run starts at once.

Reads one JSON object a line from standard input: `argv`; `die`, null or where the child is to kill itself; and
`file_size_limit`, null or the bytes that the system lets it write into one file. Answers with the child's process id,
which is that of a process group of its own, then with one JSON object: `status` (exit status, or minus the signal),
`output` and `errors` (what it wrote to standard output and standard error) and `calls` (how often it did what `die`
can name).

`die` is `["write", 3]`, at the third write of a file when half of it is written; `["replace", 3]` and
`["replaced", 3]`, before and after the third renaming; or `["replaced", "name"]`, after a file got this name.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from training import incremental


calls: Counter[str] = Counter()


def die_if_due(operation: str, name: str, die: list[Any] | None) -> None:
    calls[operation] += 1
    if die in ([operation, calls[operation]], [operation, name]):
        os.kill(os.getpid(), signal.SIGKILL)


def plant(die: list[Any] | None) -> None:
    """Counts what is done to files, and dies at one of them."""
    replace, write_bytes = Path.replace, Path.write_bytes

    def counted_replace(path: Path, target: Path) -> Path:
        die_if_due("replace", target.name, die)
        result = replace(path, target)
        die_if_due("replaced", target.name, die)
        return result

    def counted_write(path: Path, content: bytes) -> int:
        if die and die[0] == "write":
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
        die_if_due("write", path.name, die)
        return write_bytes(path, content)

    Path.replace, Path.write_bytes = counted_replace, counted_write  # type: ignore[method-assign,assignment]


def child(request: dict[str, Any], report: int, output: int, errors: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(errors, 2)
    plant(request["die"])
    if request["file_size_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size_limit"],) * 2)
    sys.argv = ["training/incremental.py", *request["argv"]]
    status = 0
    try:
        incremental.main()
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(report, json.dumps(calls).encode())
    os._exit(status)


def serve(request: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            child(request, writer, output.fileno(), errors.fileno())
        os.close(writer)
        say(str(pid))
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reader) as report:
            counted = json.loads(report.read() or "{}")
        written = {name: file.seek(0) or file.read() for name, file in (("output", output), ("errors", errors))}
        say(json.dumps({"status": os.waitstatus_to_exitcode(status), "calls": counted} | written))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        serve(json.loads(line))
