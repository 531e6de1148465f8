"""CLIP's tokenizer without a download: a single checkpoint has none, and all families read the same words."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"
TOKENS = 77


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """As it comes with the released models, which fill captions up with `pad_token`."""
    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    vocabulary = {token: number for number, token in enumerate(_tokens(merges))}
    pairs: Any = merges  # which the hint does not know
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, pad_token=pad_token, model_max_length=TOKENS)


def _tokens(merges: list[tuple[str, ...]]) -> list[str]:
    """All 49 408, by number: every byte, every byte that ends a word, every merge, the two marks."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_ins = range(256, 512 - len(printable))  # characters for the bytes that have none of their own
    bytes_ = [chr(code) for code in (*printable, *stand_ins)]
    words = [f"{byte}</w>" for byte in bytes_]
    return [*bytes_, *words, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
