"""
Collects the suite only where `fetch.py` has fetched it: it comes from a package index, which not every machine
reaches. Where it is missing the test report says so, and continuous integration fails.
"""

import os
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))
from fetch import suite_folder  # noqa: E402


FETCHED = suite_folder().is_dir()
NOT_FETCHED = "the test suite of transformers is not fetched: run python tests/transformers_suite/fetch.py"

SUITE_MARKERS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")

collect_ignore = [] if FETCHED else ["test_modeling_dytox.py"]
if FETCHED:
    sys.path.insert(0, str(suite_folder()))
elif os.environ.get("CI"):
    raise pytest.UsageError(NOT_FETCHED)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the suite's own markers known."""
    for marker in SUITE_MARKERS:
        config.addinivalue_line("markers", f"{marker}: used by the test suite of transformers")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says that the suite did not run."""
    if not FETCHED:
        terminalreporter.write_line(f"NOT RUN: {NOT_FETCHED}", yellow=True)
