"""Imports run one way: what may know what."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
OURS = ("modeling_dytox", "training", "hub", "benchmarks", "tests")
# Room -> what of the project it may import. `hub.run` and `modeling_dytox` are the ground that both wings stand on.
ALLOWED = {
    "modeling_dytox": ("modeling_dytox",),
    "hub/run": ("hub.run",),
    "hub": ("hub", "modeling_dytox"),
    "training": ("training", "hub.run", "modeling_dytox"),
    "training/incremental.py": ("training", "hub", "modeling_dytox"),
}


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in the file; relative ones by their package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if node.level == 0 and node.module else ".".join(path.relative_to(ROOT).parts[:-1])


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may_know(room: str) -> None:
    files = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
    narrower = [other for other in ALLOWED if other.startswith(f"{room}/")]
    for file in files:
        if any(file.is_relative_to(ROOT / other) for other in narrower):
            continue
        for name in imported(file):
            allowed = any(name == each or name.startswith(f"{each}.") for each in ALLOWED[room])
            assert allowed or name.partition(".")[0] not in OURS, f"{file.relative_to(ROOT)} imports {name}"


def test_the_contract_imports_the_standard_library_alone() -> None:
    for file in sorted((ROOT / "hub" / "run").glob("*.py")):
        for name in imported(file):
            assert name.startswith("hub.run") or name.partition(".")[0] in sys.stdlib_module_names, (file.name, name)
