"""The built-in data set: scikit-learn's handwritten digits, real images that need no download."""

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage


TEST_FRACTION = 0.2
SPLIT_SEED = 0


def load_digits_dataset() -> DatasetDict:
    """
    The 1,797 digits of scikit-learn (8x8 pixels, 17 levels of grey) as `image` and `label`.

    Returns:
        `DatasetDict`: 1,437 images in `train` and 360 in `test`, the same split at every call, in equal proportions
        of the ten classes.
    """
    # Slow to import, and only this data set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    rows = train_test_split(
        range(len(pixels)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=digits.target
    )
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})

    def split(selected: list[int]) -> Dataset:
        images = [PILImage.fromarray(pixels[row]) for row in selected]
        return Dataset.from_dict({"image": images, "label": digits.target[selected].tolist()}, features=features)

    return DatasetDict({name: split(sorted(selected)) for name, selected in zip(("train", "test"), rows, strict=True)})
