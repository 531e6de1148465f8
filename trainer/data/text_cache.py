"""Where a step's conditioning comes from: looked up where the text encoders stay as they are, else computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from transformers import CLIPTokenizer

from trainer.data.tensor_cache import TensorCache, cache_key
from trainer.text import Conditioning, encode, tokenize


class TextSource(Protocol):
    def conditioning(self, captions: Sequence[str]) -> Conditioning: ...


@dataclass(frozen=True)
class LiveText:
    """Computed at every step."""

    family: str
    encoders: Mapping[str, nn.Module]
    tokenizers: Mapping[str, CLIPTokenizer]
    left_out: int = 0  # layers at the encoders' end, besides those that the family leaves out

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        return encode(self.family, self.encoders, tokenize(self.tokenizers, captions), self.left_out)


@dataclass(frozen=True)
class CachedText:
    """Captions' conditioning, (1, tokens, width) each, computed once; `live` for those with too many wordings."""

    table: Mapping[str, Conditioning]
    live: LiveText

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        if not all(caption in self.table for caption in captions):
            return self.live.conditioning(captions)
        rows = [self.table[caption] for caption in captions]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(torch.cat([row.hidden for row in rows]), torch.cat(pooled) if pooled else None)


def cache_text(live: LiveText, captions: Iterable[str], fingerprint: str, cache: TensorCache) -> CachedText:
    """Of all `captions`, by `live` where the cache does not have it; `fingerprint`: of the base model."""
    words = tokenizers_fingerprint(live.tokenizers)
    table = {
        caption: _from_tensors(
            cache.get(
                cache_key("text 2", fingerprint, words, live.left_out, caption), lambda c=caption: _as_tensors(live, c)
            )
        )
        for caption in dict.fromkeys(captions)
    }
    return CachedText(table, live)


def tokenizers_fingerprint(tokenizers: Mapping[str, CLIPTokenizer]) -> str:
    facts = {name: [tokenizer.get_vocab(), tokenizer.model_max_length] for name, tokenizer in tokenizers.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def _as_tensors(live: LiveText, caption: str) -> dict[str, torch.Tensor]:
    made = live.conditioning([caption])
    return {"hidden": made.hidden} | ({} if made.pooled is None else {"pooled": made.pooled})


def _from_tensors(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    return Conditioning(tensors["hidden"], tensors.get("pooled"))
