"""The layout of a run: the names that training writes and publishing reads."""

#: The rehearsal memories of `namespace/name` are in the data set `namespace/name-memory`, with the same tags.
MEMORY_SUFFIX = "-memory"
#: Path of the exemplars within a revision of that data set.
MEMORY_FILE = "data/train.parquet"
