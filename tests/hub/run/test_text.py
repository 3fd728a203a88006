"""Names and values in errors, and files written aside."""

from itertools import product
from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hub.run.atomic import replaced, write_aside
from hub.run.text import is_repo_id, short_repr


PARTS = ["", "a b", "a\n", "a" * 96, "a" * 97, *"a B9_ _ -a a- .a a. a-b a--b a..b a.-b a.git a.gitx é".split()]


def is_valid_for_the_client(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def test_a_repository_id_is_what_the_client_accepts_with_a_namespace() -> None:
    names = [f"{first}/{second}" for first, second in product(PARTS, PARTS)]
    valid = [name for name in names if is_valid_for_the_client(name)]
    assert [name for name in names if is_repo_id(name)] == valid
    assert 0 < len(valid) < len(names)
    assert not any(is_repo_id(name) for name in (*PARTS, "a/b/c", "datasets/a/b", "/a", "a/"))


def test_a_value_of_any_size_is_shown_on_one_short_line() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "\n\u202e" * 10**6, list(range(10**6)), 10**4000, {"a": deep}):
        text = short_repr(value)
        assert text.isprintable() and 0 < len(text) <= 60
    assert short_repr([[0, 2], [2, 4]]) == "[[0, 2], [2, 4]]"


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    write_aside(path, "old ñ")
    with pytest.raises(RuntimeError), replaced(path) as partial:
        partial.write_text("half")
        assert partial.name.startswith(".") and path.read_bytes() == "old ñ".encode()
        raise RuntimeError
    assert path.read_bytes() == "old ñ".encode() and list(tmp_path.iterdir()) == [path]
    write_aside(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
