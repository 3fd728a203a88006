"""Memory that is kept: told by the pages that the system has to hand out anew."""

import subprocess
import sys
from pathlib import Path

import pytest


# Takes and frees 64 MB again and again, and prints how many pages of it were new each time.
PAGES = """
import resource
import torch
from training.loop.malloc import keep_freed_pages
kept = keep_freed_pages() if {keep} else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# The first blocks are cut to size, then they fit.
for _ in range(30):
    torch.zeros(16 << 20).sum()
before = faults()
for _ in range(10):
    torch.zeros(16 << 20).sum()
print(kept, (faults() - before) // 10)
"""


def new_pages(root: Path, keep: bool) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", PAGES.format(keep=keep)], cwd=root, capture_output=True, text=True, check=True
    )
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the allocator of Linux")
def test_large_blocks_are_not_handed_out_anew_each_time(root: Path) -> None:
    kept, pages = new_pages(root, keep=True)
    if not kept:
        pytest.skip("another allocator than that of glibc")
    assert pages < 100
    # As it is otherwise, or the test would prove nothing: 64 MB are 16,384 small pages, or 32 huge ones.
    assert new_pages(root, keep=False)[1] >= 32
