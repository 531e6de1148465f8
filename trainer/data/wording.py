"""What is made of a caption at a step: trigger words, wildcards, tags shuffled or left out, the whole left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations, permutations
from random import Random

from trainer.config_data import CaptionOptions

CHOICE = re.compile(r"\{([^{}]*)\}")  # the innermost
MOST_WORDINGS = 16  # of a picture, that are encoded once and kept


def plain(text: str, options: CaptionOptions) -> str:
    """Without chance: of every choice the first, every tag in its place."""
    chosen = _chosen(text, lambda choices: choices[0]) if options.wildcards else text
    return _with_trigger(chosen, options.trigger)


def vary(text: str, options: CaptionOptions, random: Random) -> str:
    """One of the captions that `options` make of `text`."""
    if random.random() < options.caption_dropout:
        return ""
    chosen = _chosen(text, random.choice) if options.wildcards else text
    if options.shuffle_tags or options.tag_dropout:
        kept, loose = _tags(chosen, options.keep_tags)
        loose = [tag for tag in loose if random.random() >= options.tag_dropout]
        if options.shuffle_tags:
            random.shuffle(loose)
        chosen = ", ".join([*kept, *loose])
    return _with_trigger(chosen, options.trigger)


def wordings(text: str, options: CaptionOptions, most: int = MOST_WORDINGS) -> frozenset[str] | None:
    """The plain caption and all that `vary` can give; None where they are more than `most`."""
    found = {plain(text, options)} | ({""} if options.caption_dropout else set[str]())
    chosen = _all_chosen(text, most) if options.wildcards else [text]
    for tried, one in enumerate(chain.from_iterable(_arranged(each, options) for each in chosen or ())):
        found.add(_with_trigger(one, options.trigger))
        if tried >= 4 * most:  # the same tag many times
            return None
    return None if chosen is None or len(found) > most else frozenset(found)


def told_of_texts(found: Sequence[frozenset[str] | None], is_trained: bool) -> str:
    """How texts get to the UNet. `found`: the wordings of each picture; `is_trained`: a text encoder is."""
    if is_trained:
        return "captions are encoded at every step, as the text encoder is trained"
    if live := found.count(None):
        return f"captions of {live} pictures have too many wordings to keep: encoded at every step"
    return f"{len(frozenset[str]().union(*filter(None, found)))} texts are encoded once and kept"


def is_balanced(text: str) -> bool:
    """Whether every brace has its other one."""
    while (inner := CHOICE.sub("", text)) != text:
        text = inner
    return not {"{", "}"} & set(text)


def _chosen(text: str, choose: Callable[[list[str]], str]) -> str:
    while found := CHOICE.search(text):
        text = f"{text[: found.start()]}{choose(found[1].split('|'))}{text[found.end() :]}"
    return text


def _all_chosen(text: str, most: int) -> list[str] | None:
    texts = [text]
    while any(map(CHOICE.search, texts)):
        texts = list(dict.fromkeys(chain.from_iterable(map(_first_choices, texts))))
        if len(texts) > most:
            return None
    return texts


def _first_choices(text: str) -> Iterable[str]:
    found = CHOICE.search(text)
    if found is None:
        return [text]
    return [f"{text[: found.start()]}{choice}{text[found.end() :]}" for choice in found[1].split("|")]


def _arranged(text: str, options: CaptionOptions) -> Iterator[str]:
    """Every choice and order of tags."""
    if not options.shuffle_tags and not options.tag_dropout:
        yield text
        return
    kept, loose = _tags(text, options.keep_tags)
    sizes = range(len(loose) + 1) if options.tag_dropout else [len(loose)]
    arrange = permutations if options.shuffle_tags else combinations
    for size in sizes:
        yield from (", ".join([*kept, *some]) for some in arrange(loose, size))


def _tags(text: str, keep: int) -> tuple[Sequence[str], list[str]]:
    tags = [tag.strip() for tag in text.split(",") if tag.strip()]
    return tags[:keep], tags[keep:]


def _with_trigger(text: str, trigger: str) -> str:
    return text if trigger in text else ", ".join(filter(None, [trigger, text]))
