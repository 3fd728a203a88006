"""
Runs Python scripts in children of one process that has imported what they need, so that they start at once.

    python nursery.py MODULE ...

imports these modules and reads one JSON object a line from standard input: `argv`, the words that would follow
`python`, which begin with a file, `-m` or `-c`; `places`, for each child the folder it runs in (`folder`) and its
whole environment (`environment`); `die`, null or where the children are to kill themselves; and `file_size_limit`,
null or the bytes that the system lets each write into one file. Answers with the list of the children's process ids,
each that of a process group of its own, then with a list of one JSON object a child: `status` (exit status, or minus
the signal), `output` and `errors` (what it wrote to standard output and standard error) and `calls` (how often it did
what `die` can name).

`die` is `["write", 3]`, at the third write of a file when half of it is written; `["replace", 3]` and
`["replaced", 3]`, before and after the third renaming; or `["replaced", "name"]`, after a file got this name.
"""

import gc
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple


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


class Child(NamedTuple):
    """A child that was started: its process, where it reports its calls, and what it writes."""

    pid: int
    report: int
    output: IO[str]
    errors: IO[str]


def start(request: dict[str, Any], place: dict[str, Any]) -> Child:
    reader, writer = os.pipe()
    output, errors = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setsid()
        for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), output.fileno(), errors.fileno())):
            os.dup2(file, number)
        os.chdir(place["folder"])
        os.environ.clear()
        os.environ.update(place["environment"])
        run(request, writer)
    os.close(writer)
    return Child(pid, reader, output, errors)


def run(request: dict[str, Any], report: int) -> None:
    """Is the child, from beginning to end."""
    plant(request["die"])
    if request["file_size_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size_limit"],) * 2)
    status = 0
    try:
        interpret(request["argv"])
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(report, json.dumps(calls).encode())
    os._exit(status)


def interpret(argv: list[str]) -> None:
    """What `python *argv` runs."""
    kind, *words = argv
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *words[1:]], ""
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv, sys.path[0] = words, os.getcwd()
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def end(child: Child) -> dict[str, Any]:
    _, status = os.waitpid(child.pid, 0)
    found: dict[str, Any] = {"status": os.waitstatus_to_exitcode(status)}
    with os.fdopen(child.report) as report:
        found["calls"] = json.loads(report.read() or "{}")
    for name, file in (("output", child.output), ("errors", child.errors)):
        with file:
            file.seek(0)
            found[name] = file.read()
    return found


def serve(request: dict[str, Any]) -> None:
    children = [start(request, place) for place in request["places"]]
    say(json.dumps([child.pid for child in children]))
    say(json.dumps([end(child) for child in children]))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    # Children look for garbage in their own objects alone.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        serve(json.loads(line))
