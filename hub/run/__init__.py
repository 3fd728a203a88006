"""The contract between training and publishing: the folder of a run, its results, and how files are written."""
