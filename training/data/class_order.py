"""The order in which classes are learned: that of the data set, a list, a file, or at random."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import yaml

from hub.run.errors import InputError, one_line


BUNDLED_ORDERS = Path(__file__).parents[1] / "class_orders"


def resolve_class_order(order: Sequence[str] | None, class_names: Sequence[str], num_classes: int | None) -> list[int]:
    """
    The label ids of the data set in the order of learning.

    Args:
        order (`Sequence[str]`, *optional*): names or label ids; or one entry: a file, a bundled order, `seed:N`.
        class_names (`Sequence[str]`): name of each label id.
        num_classes (`int`, *optional*): only the first so many classes of the order.

    Raises:
        InputError: a class is unknown, named twice or missing, or there are fewer classes than `num_classes`.
    """
    if num_classes is not None and num_classes > len(class_names):
        raise InputError(f"--num_classes {num_classes} is more than the {len(class_names)} classes of the data set.")
    entries = list(order) if order is not None else None
    if entries is None:
        labels = list(range(len(class_names)))
    elif len(entries) == 1 and entries[0].startswith("seed:"):
        labels = _random_order(entries[0], len(class_names))
    else:
        if len(entries) == 1 and len(class_names) > 1:
            entries = _read_order_file(entries[0], class_names)
        labels = [_label_of(normalize("NFC", entry), class_names) for entry in entries]
    _check_order(labels, class_names, num_classes)
    return labels[:num_classes]


def _random_order(entry: str, num_classes: int) -> list[int]:
    seed = entry.removeprefix("seed:")
    if not seed.isdecimal() or int(seed) >= 2**32:
        raise InputError(f"--class_order {entry} needs a whole number below 2**32 after 'seed:', e.g. seed:1993.")
    # The legacy generator is the one that the field's published orders (seed 1993) were drawn with.
    return np.random.RandomState(int(seed)).permutation(num_classes).tolist()


def _read_order_file(name: str, class_names: Sequence[str]) -> list[str]:
    path = Path(name).expanduser()
    if not path.is_file():
        path = BUNDLED_ORDERS / f"{name}.txt"
    if not path.is_file():
        bundled = ", ".join(sorted(file.stem for file in BUNDLED_ORDERS.glob("*.txt")))
        raise InputError(
            f"--class_order {name} is no file: give a file, all class names, 'seed:1993' or one of {bundled}."
        )
    try:
        entries = _parse_order(path.read_text(encoding="utf-8-sig"), path.suffix, class_names)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"--class_order {name} cannot be read ({one_line(error)}): give one class a line, or a JSON or YAML list."
        ) from error
    if not isinstance(entries, list):
        raise InputError(f"--class_order {name} holds {type(entries).__name__}: expected a list of classes.")
    return [str(entry) for entry in entries]


def _parse_order(text: str, suffix: str, class_names: Sequence[str]) -> Any:
    if suffix == ".json":
        return json.loads(text)
    if suffix in (".yaml", ".yml"):
        # As text: YAML would read 010 as a number, and yes as true.
        return yaml.load(text, Loader=yaml.BaseLoader)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # A line that is a class is a class, whatever it begins with.
    return [line for line in lines if not line.startswith("#") or line in class_names]


def _label_of(entry: str, class_names: Sequence[str]) -> int:
    if entry in class_names:
        return list(class_names).index(entry)
    if entry.isdecimal() and int(entry) < len(class_names):
        return int(entry)
    raise InputError(
        f"--class_order names {entry!r}, which is neither a class of the data set nor a label id below "
        f"{len(class_names)}."
    )


def _check_order(labels: list[int], class_names: Sequence[str], num_classes: int | None) -> None:
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise InputError(f"--class_order names {class_names[repeated[0]]!r} more than once: name each class once.")
    missing = [name for label, name in enumerate(class_names) if label not in set(labels)]
    if missing and (num_classes is None or len(labels) < num_classes):
        raise InputError(
            f"--class_order misses {len(missing)} of {len(class_names)} classes, {missing[0]!r} first: name each "
            "class once, or take the first N with --num_classes N."
        )
