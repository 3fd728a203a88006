"""
Fetches the test suite that `transformers` runs on each of its own models, for `test_modeling_dytox.py` beside this
file. The wheel leaves it out, so it comes from the source distribution of the very version that is installed:

    python tests/transformers_suite/fetch.py
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


CACHE = Path(__file__).resolve().parents[2] / ".cache" / "transformers_suite"
# The package the files are put in, as they import one another by relative imports.
PACKAGE = "transformers_tests"
SUITE_FILES = ("test_modeling_common.py", "test_configuration_common.py")
# What the files above import, but the source distribution leaves out and DyTox does not need.
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "architectures": ["DyToxModel"],
    "chunk_size_feed_forward": 4,
    "dtype": "float16",
    "id2label": {0: "only label"},
    "label2id": {"only label": 0},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
""",
}


def suite_folder() -> Path:
    """The folder to put on the import path: it holds the package of the installed version's suite once fetched."""
    return CACHE / transformers.__version__


def fetch() -> Path:
    """Makes [`suite_folder`] unless it is there, whole or not at all; pip tells when the download fails."""
    folder = suite_folder()
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as staging:
        package = Path(staging) / folder.name / PACKAGE
        package.mkdir(parents=True)
        for name, text in STUBS.items():
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).write_text(text, encoding="utf-8")
        _extract(_download(Path(staging)), package)
        package.parent.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    requirement = f"transformers=={transformers.__version__}"
    options = ["--quiet", "--no-deps", "--no-binary", "transformers", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def _extract(archive: Path, package: Path) -> None:
    with tarfile.open(archive) as source:
        root = source.getnames()[0].split("/")[0]
        for name in SUITE_FILES:
            content = source.extractfile(f"{root}/tests/{name}")
            assert content is not None, f"{name} of the source distribution is no file"
            (package / name).write_bytes(content.read())


if __name__ == "__main__":
    sys.stdout.write(f"{fetch()}\n")
