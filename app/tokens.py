"""How many tokens a caption takes, without torch: by the base model's own tokenizer where it is on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from dora_core.errors import FileFormatError
from trainer.base_files import look_up
from trainer.data.report import least_tokens

CLIP_TOKENS = 77


@dataclass(frozen=True)
class TokenCount:
    count: int
    limit: int
    is_exact: bool

    @property
    def is_too_long(self) -> bool:
        return self.count > self.limit

    @property
    def text(self) -> str:
        return f"{'' if self.is_exact else 'at least '}{self.count} of {self.limit} tokens"


def count_tokens(caption: str, base: str) -> TokenCount:
    """The two marks at the ends included."""
    tokenizer, limit = _tokenizer(base)
    if tokenizer is None:
        return TokenCount(least_tokens(caption), limit, is_exact=False)
    return TokenCount(len(tokenizer.encode(caption).ids), limit, is_exact=True)


@lru_cache(maxsize=4)
def _tokenizer(base: str) -> tuple[Tokenizer | None, int]:
    """None where the model has no tokenizer.json of its own here, as with a single file or one not fetched yet."""
    try:
        facts = look_up(base)
    except (FileFormatError, OSError):
        return None, CLIP_TOKENS
    file = facts.path / "tokenizer" / "tokenizer.json" if facts.path else None
    if file is None or not file.is_file():
        return None, facts.tokens
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    return tokenizer, facts.tokens
