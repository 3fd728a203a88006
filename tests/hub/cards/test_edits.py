"""What users wrote into the card of one step, in the cards of later ones."""

from difflib import unified_diff

import pytest
import yaml
from huggingface_hub import ModelCard

from hub.cards.edits import with_edits
from tests.hub.fake_run import make_results, with_calibration, write_run


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The generated cards of three steps."""
    run = write_run(
        tmp_path_factory.mktemp("cards") / "run", with_calibration(make_results(3)), hub_model_id="org/run"
    )
    return [(run / f"step{step}" / "README.md").read_text() for step in (1, 2, 3)]


def edited(text: str, *replacements: tuple[str, str]) -> str:
    """The card with each of these parts, which it must have, replaced once."""
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def difference(one: str, other: str) -> list[str]:
    """The lines of the body that are in one of two cards alone, without empty ones."""
    bodies = (text.partition("\n---\n")[2].splitlines() for text in (one, other))
    return [line for line in list(unified_diff(*bodies, n=0))[2:] if line[1:] and line[0] != "@"]


def test_words_keep_their_place_and_generated_numbers_are_the_new_ones(cards: list[str]) -> None:
    first, *later = cards
    accuracy = next(line for line in first.splitlines() if line.startswith("| Accuracy on all"))
    own = edited(
        first,
        ("# Some method on `digits`, step 1\n", "# My flowers\n"),
        ("An image classifier that", "A classifier of flowers that"),
        (accuracy, "| Accuracy on all flowers seen | about 99 % |"),
        ("\n## How to use it\n", "\nLook:\n\n![me](https://example.org/me.png)\n\n## How to use it\n"),
        ("- Not for decisions about people, nor for any use where a wrong label does harm.\n", ""),
    )
    own = own.rstrip() + "\n\nBye."
    for step, card in enumerate(later, 2):
        merged = with_edits(card, first, own)
        new_accuracy = next(line for line in card.splitlines() if line.startswith("| Accuracy on all"))
        sentence = next(line for line in card.splitlines() if line.startswith("An image"))
        assert difference(card, merged) == [
            f"-# Some method on `digits`, step {step}",
            "+# My flowers",
            f"-{sentence}",
            f"+{sentence.replace('An image classifier', 'A classifier of flowers')}",
            f"-{new_accuracy}",
            f"+{new_accuracy.replace('classes', 'flowers').replace('seen | ', 'seen | about ')}",
            "+Look:",
            "+![me](https://example.org/me.png)",
            "-- Not for decisions about people, nor for any use where a wrong label does harm.",
            "+Bye.",
        ]
        assert "\n\nLook:\n\n![me](https://example.org/me.png)\n\n## How to use it\n" in merged
        assert f"**{2 * step} classes** of steps 1 to {step}" in merged
        assert with_edits(merged, first, own) == merged, "words that are there are not added again"
        assert with_edits(card, first, first) == card


def test_words_beside_a_line_that_is_gone_stand_after_the_one_before(cards: list[str]) -> None:
    before = edited(cards[0], ("## Results\n", "## Results\n\nOf an earlier version.\n"))
    own = edited(before, ("earlier version.\n", "earlier version.\n\nMine.\n"))
    assert "\n## Results\n\nMine.\n" in with_edits(cards[1], before, own)


def test_of_the_metadata_the_users_keys_win_but_for_the_results(cards: list[str]) -> None:
    own = edited(
        cards[0],
        ("library_name: transformers\n", ""),
        ("- some-method\n", "- flowers\n"),
        ("model-index:\n", "license: mit\nmodel-index:\n"),
        ("Accuracy on all classes seen after step 1", "Mine"),
    )
    data, generated = (ModelCard(text).data.to_dict() for text in (with_edits(cards[1], cards[0], own), cards[1]))
    assert data.pop("license") == "mit" and data.pop("tags")[0] == "flowers"
    del generated["library_name"], generated["tags"]
    assert data == generated
    with pytest.raises((ValueError, yaml.YAMLError)):
        with_edits(cards[1], cards[0], edited(own, ("license: mit", "license: [")))
