"""Pages of freed memory stay in the process: the system counts those that it has to provide again."""

import subprocess
import sys
from pathlib import Path

import pytest


# Allocates and frees 64 MB again and again; prints how many new pages each time took, by default and when kept.
SCRIPT = """
import resource
import torch
from training.loop.malloc import keep_freed_pages
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(16 << 20).sum()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10
by_default = new_pages()
kept = keep_freed_pages()
# The first blocks are cut to size, then they fit.
for _ in range(30):
    torch.zeros(16 << 20).sum()
print(int(kept), by_default, new_pages())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the allocator of Linux")
def test_large_blocks_are_not_provided_again_each_time(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    is_kept, by_default, kept = map(int, done.stdout.split())
    if not is_kept:
        pytest.skip("another allocator than that of glibc")
    # 64 MB are 16,384 small pages, or 32 huge ones.
    assert by_default >= 32 and kept <= by_default // 4
