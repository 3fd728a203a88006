"""What users wrote into a published card, carried into the card of a later step."""

import re
from collections import defaultdict
from difflib import SequenceMatcher

from huggingface_hub import RepoCard


# Measured anew in every step.
_GENERATED_KEY = "model-index"
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]+|\s+|.")
_WORD = re.compile(r"[^\W\d]+")
# The share of common words from which on two lines count as one that was changed.
_SIMILAR = 0.6


def with_edits(card: str, before: str, after: str) -> str:
    """
    `card` with what a user did to the card of an earlier step. A line that was added stays after the line that it
    followed, or after the nearest line above that is still there. Generated numbers are those of `card`. Of the
    metadata, what the user changed, added or removed wins, but for `model-index`.

    Args:
        card (`str`): the card of the later step. Lines that it has at their place already are not added again.
        before (`str`): the card of the earlier step, as published.
        after (`str`): the same card as the user left it.

    Returns:
        `str`: Markdown with a metadata block.

    Raises:
        `ValueError`, `TypeError` or `yaml.YAMLError`: a metadata block cannot be parsed.
    """
    old, own, merged = (RepoCard(text) for text in (before, after, card))
    for key in old.data.to_dict() | own.data.to_dict():
        if key != _GENERATED_KEY and own.data.get(key) != old.data.get(key):
            # None removes the key.
            merged.data[key] = own.data.get(key)
    merged.text = "\n".join(_merge(*(one.text.split("\n") for one in (old, own, merged))))
    return str(merged).rstrip("\n") + "\n"


def _merge(before: list[str], after: list[str], card: list[str]) -> list[str]:
    """The lines of `card` with what was done to the lines of `before`."""
    places, kept = _pairs(before, card), _pairs(before, after)
    origins = {number: old for old, number in kept.items()}
    lines = dict(enumerate(card))
    for old in places.keys() - kept.keys():
        del lines[places[old]]
    # New lines, by the place in the card before which they stand.
    added: dict[int, list[str]] = defaultdict(list)
    place = 0
    for number, line in enumerate(after):
        old = origins.get(number, -1)
        if old in places:
            lines[places[old]] = _renewed(line, before[old], card[places[old]])
            place = places[old] + 1
        elif old == -1 or line != before[old]:
            added[place].append(line)
    merged = []
    for place in range(len(card) + 1):
        new = added[place]
        is_there = new in (card[place : place + len(new)], card[max(0, place - len(new)) : place])
        merged += [] if is_there else new
        merged += [lines[place]] if place in lines else []
    return merged


def _pairs(one: list[str], other: list[str]) -> dict[int, int]:
    """Number of a line -> number of the line of `other` that is equal, or similar and at the same place."""
    pairs: dict[int, int] = {}
    for kind, start, stop, place, end in SequenceMatcher(None, one, other, False).get_opcodes():
        for number in range(start, stop):
            found = (there for there in range(place, end) if kind == "equal" or _similar(one[number], other[there]))
            if (there := next(found, None)) is not None:
                pairs[number] = there
                place = there + 1
    return pairs


def _similar(one: str, other: str) -> bool:
    words, others = _WORD.findall(one), _WORD.findall(other)
    return SequenceMatcher(None, words, others, False).ratio() >= _SIMILAR


def _renewed(line: str, before: str, generated: str) -> str:
    """
    A line that the user made from `before`, with what differs in the line generated now. Where the user wrote other
    words in place of what differs, they stay; another number does not.
    """
    if line == before:
        return generated
    old, own, new = (_TOKEN.findall(text) for text in (before, line, generated))
    old_words, own_words = _without_numbers(old), _without_numbers(own)
    if old_words != own_words == _without_numbers(new):
        # The line has the user's words already.
        return generated
    places = {-1: -1, len(old): len(own)}
    for block in SequenceMatcher(None, old_words, own_words, False).get_matching_blocks():
        places |= {block.a + offset: block.b + offset for offset in range(block.size)}
    # From the end, as a replacement moves what follows.
    for kind, start, stop, first, end in reversed(SequenceMatcher(None, old, new, False).get_opcodes()):
        # What is inserted needs the tokens on both sides.
        around = range(start, stop) if start < stop else range(start - 1, start + 1)
        found = [places[number] for number in around if number in places]
        is_kept = len(found) == len(around) and found[-1] - found[0] == len(around) - 1
        if kind != "equal" and is_kept:
            at = found[0] if start < stop else found[-1]
            own[at : at + stop - start] = new[first:end]
    return "".join(own)


def _without_numbers(tokens: list[str]) -> list[str]:
    """The same number for every number."""
    return ["0" if token[0].isdecimal() else token for token in tokens]
