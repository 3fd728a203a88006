"""Where the time of a run goes: functions of the project under a watch."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias


#: The name of a part, and the class or module with the function that does it.
Timed: TypeAlias = tuple[str, Any, str]


class Parts:
    """
    Seconds spent in each part, without those of other parts that it calls.

    Args:
        wait: called before the clock is read; waits for what a device still computes.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.wait = wait
        # Seconds of the parts inside each part that runs now.
        self._inside: list[float] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose time counts for `part`."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.wait()
                seconds = time.perf_counter() - started
                self.seconds[part] += seconds - self._inside.pop()
                if self._inside:
                    self._inside[-1] += seconds

        return call


@contextmanager
def watched(timed: Sequence[Timed], wait: Callable[[], object] = lambda: None) -> Iterator[Parts]:
    """
    Puts functions under a watch, for as long as the context lasts.

    Args:
        timed (`Sequence[Timed]`): the functions, all called by one thread.
        wait: see [`Parts`].
    """
    parts = Parts(wait)
    originals = [(owner, name, getattr(owner, name)) for _, owner, name in timed]
    try:
        for part, owner, name in timed:
            setattr(owner, name, parts.timed(part, getattr(owner, name)))
        yield parts
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
