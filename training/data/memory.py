"""The rehearsal memory: a bounded set of old images, herded once, one for the whole run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, Value
from datasets.table import embed_table_storage

from hub.run.atomic import replaced
from hub.run.errors import InputError, first_line, one_line
from training.data.examples import Examples, Transparency, concatenate
from training.data.herding import herd
from training.data.scenario import Step


class RehearsalMemory:
    """
    Exemplars of all classes seen, in equal shares of a total budget: classes in the order of learning, the exemplars
    of a class in the order of their selection.

    Args:
        size (`int`): budget, in images, of all classes together.
        num_classes (`int`, *optional*): share the budget by so many classes from the start, instead of by the
            classes seen so far.
        transparency: how its images are read, see [`training.data.examples.to_rgb`].
    """

    def __init__(self, size: int, num_classes: int | None = None, transparency: Transparency = "refuse") -> None:
        self.size = size
        self.transparency = transparency
        self.num_classes = num_classes
        self.examples: Examples | None = None
        #: What else is known of exemplars that are loaded, by the steps that brought them.
        self.attach: Callable[[Examples, np.ndarray], Examples] = lambda examples, steps: examples
        self.steps = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.steps)

    def quota(self, num_seen_classes: int) -> int:
        """Exemplars of each class once so many classes were seen."""
        return self.size // (self.num_classes or num_seen_classes)

    def choose(self, step: Step, features: np.ndarray) -> np.ndarray:
        """
        Herds the exemplars of the new classes, and of old ones that have fewer than their share where the step brings
        images of them.

        Args:
            step (`Step`): its training images are the candidates.
            features (`np.ndarray` of shape `(len(step.train), d)`): embedding of each of them.

        Returns:
            `np.ndarray`: their positions in `step.train`, class by class, in the order of selection.
        """
        quota = self.quota(step.num_seen_classes)
        kept = np.zeros(0, dtype=np.int64) if self.examples is None else self.examples.labels
        chosen = []
        for label in np.unique(step.train.labels):
            candidates = np.flatnonzero(step.train.labels == label)
            room = max(0, quota - int((kept == label).sum()))
            chosen.append(candidates[herd(features[candidates], room)])
        return np.concatenate(chosen)

    def update(self, step: Step, chosen: np.ndarray) -> None:
        """Cuts the classes known before to their new share and adds the chosen exemplars of `step`."""
        self.cut(step.num_seen_classes)
        old = [] if self.examples is None else [self.examples]
        self.examples = concatenate([*old, step.train.select(chosen)])
        self.steps = np.concatenate([self.steps, np.full(len(chosen), step.number)])
        self._sort()

    def cut(self, num_seen_classes: int) -> None:
        """Keeps of each class the share that it has once so many classes were seen."""
        if self.examples is not None:
            kept = self._first_of_each_class(self.examples.labels, self.quota(num_seen_classes))
            self.examples, self.steps = self.examples.select(kept), self.steps[kept]

    def _sort(self) -> None:
        """Puts exemplars that were added to an old class behind those that it has."""
        if self.examples is not None and (np.diff(self.examples.labels) < 0).any():
            order = np.argsort(self.examples.labels, kind="stable")
            self.examples, self.steps = self.examples.select(order), self.steps[order]

    @staticmethod
    def _first_of_each_class(labels: np.ndarray, quota: int) -> np.ndarray:
        return np.concatenate([np.flatnonzero(labels == label)[:quota] for label in np.unique(labels)])

    def save(self, path: Path, class_names: list[str]) -> None:
        """Writes the exemplars as Parquet: image, label, class_name, step and source_index, in selection order."""
        if self.examples is None:
            raise ValueError("The memory holds nothing yet: there is nothing to save.")
        labels = self.examples.labels
        features = Features(
            {
                "image": Image(),
                "label": ClassLabel(names=class_names),
                "class_name": Value("string"),
                "step": Value("int64"),
                "source_index": Value("int64"),
            }
        )
        dataset = self.examples.images.flatten_indices(keep_in_memory=True)
        dataset = dataset.add_column("label", labels.tolist())
        dataset = dataset.add_column("class_name", [class_names[label] for label in labels])
        dataset = dataset.add_column("step", self.steps.tolist())
        dataset = dataset.add_column("source_index", self.examples.source_indices.tolist()).cast(
            features, keep_in_memory=True
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Images known by their path alone are read in: the file must stand on its own.
        table = _without_paths(embed_table_storage(dataset.data.table))
        with replaced(path) as partial:
            pq.write_table(table, partial, write_page_checksum=True)

    def load(self, path: Path) -> None:
        """
        Takes up the exemplars that `save` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            dataset = Dataset(pq.read_table(path, page_checksum_verification=True))
            images = dataset.select_columns(["image"])
            columns = dataset.select_columns(["label", "step", "source_index"]).to_dict()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"The rehearsal memory {path.name} cannot be read ({one_line(error)}): restore the file, "
                f"delete {path.stem} and the later steps to learn them again, or start again with "
                "--overwrite_output_dir."
            ) from error
        labels, sources = (np.array(columns[name], dtype=np.int64) for name in ("label", "source_index"))
        self.steps = np.array(columns["step"], dtype=np.int64)
        self.examples = self.attach(Examples(images, labels, sources, self.transparency), self.steps)


def _without_paths(table: pa.Table) -> pa.Table:
    """The table without the names of the files that its images came from, which may leak private paths."""
    position = table.schema.get_field_index("image")
    field = table.schema.field(position)
    chunks = [
        pa.StructArray.from_arrays([chunk.field("bytes"), pa.nulls(len(chunk), pa.string())], names=["bytes", "path"])
        for chunk in table.column(position).chunks
    ]
    return table.set_column(position, field, pa.chunked_array(chunks, field.type))


def make_memory(
    size: int, num_classes: int, fixed: bool, transparency: Transparency = "refuse", min_exemplars: int = 1
) -> RehearsalMemory:
    """
    An empty memory with room for the exemplars that each class needs.

    Args:
        size (`int`): budget, in images.
        num_classes (`int`): classes of the whole run.
        fixed (`bool`): whether each class gets its final share from the start.
        transparency: how its images are read, see [`training.data.examples.to_rgb`].
        min_exemplars (`int`, *optional*, defaults to 1): that the method needs of each class.

    Raises:
        InputError: there are fewer.
    """
    if size < min_exemplars * num_classes:
        raise InputError(
            f"--memory_size {size} is too small for {num_classes} classes: give at least "
            f"{min_exemplars * num_classes}, {min_exemplars} exemplar(s) a class, or choose a --method without memory."
        )
    return RehearsalMemory(size, num_classes if fixed else None, transparency)


def check_memory(path: Path, class_names: Sequence[str]) -> None:
    """
    Makes sure that a rehearsal memory holds exemplars of each of these classes, under these label ids.

    Raises:
        InputError: it does not, or cannot be read.
    """
    advice = "give the memory of the step that is continued, see --memory_name_or_path."
    try:
        columns = pq.read_table(path, columns=["label", "class_name", "step", "source_index"]).to_pydict()
        pq.read_schema(path).field("image")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"The rehearsal memory {path.name} cannot be read ({first_line(error)}): {advice}") from error
    if any(value is None for column in columns.values() for value in column):
        raise InputError(f"The rehearsal memory {path.name} lacks values in some rows: {advice}")
    named = dict(zip(columns["label"], columns["class_name"], strict=True))
    if sorted(named) != list(range(len(class_names))):
        raise InputError(
            f"The rehearsal memory {path.name} is of another step or model: it has exemplars of {len(named)} classes, "
            f"the model knows {len(class_names)}; {advice}"
        )
    for label, name in sorted(named.items()):
        if name != class_names[label]:
            raise InputError(
                f"The rehearsal memory {path.name} is of another model: its label {label} is {name!r}, that of the "
                f"model {class_names[label]!r}; {advice}"
            )
