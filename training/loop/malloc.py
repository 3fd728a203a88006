"""Keeps the pages of freed memory in the process, for the next layer to use."""

import ctypes


# Parameters of glibc's `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_pages() -> bool:
    """
    Lets this process keep the pages of memory that it frees. The allocator of glibc otherwise returns every large
    block to the system at once, so that each layer of a model waits for the system to fill with zeros the pages that
    the layer before has just returned.

    Returns:
        `bool`: whether that was possible; where the allocator is not that of glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
