"""What the model is told about a picture, and the stage `tokenizer`: a small BPE vocabulary of those words."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .data import Concept, Pictures
from .files import write_text, written_whole
from .profile import COLOURS, Workshop

TOKENS = 32  # a caption's length: eight words and room for a user's own
START, END = "<|startoftext|>", "<|endoftext|>"


def caption(concept: Concept, colour: str | None) -> str:
    background = "" if colour is None else f" on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
    return concept.phrase + background


def train_tokenizer(shop: Workshop) -> None:
    """Write ``work/tokenizer``, in the files that every version of CLIPTokenizer reads."""
    target = shop.work / "tokenizer"
    if target.exists():
        return
    concepts = Pictures.load(shop.work).concepts
    merges = _merges(caption(c, colour) for c in concepts for colour in COLOURS)
    # CLIP's layout: each byte, each byte that ends a word, the merges, the two marks. So every word can be spelled out.
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(f"{b}</w>" for b in bytes_), *("".join(m) for m in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    with written_whole(target, folder=True) as temporary:
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
        tokenizer.save_pretrained(temporary)
        write_text(temporary / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
        write_text(temporary / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(m) for m in merges)]) + "\n")


def _merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    clip = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=1_000_000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
