"""How the CPU's memory is handed out: large blocks are kept for the next layer instead of given back."""

import ctypes


# Parameters of glibc's `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """
    Lets this process keep the memory that it frees. The allocator of glibc otherwise gives every large block back to
    the system at once, so that each layer of a model waits for fresh pages, filled with zeros, that the layer before
    had a moment ago.

    Returns:
        `bool`: whether that was possible. Elsewhere than on Linux with glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
