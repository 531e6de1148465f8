"""Shell-style globs over module paths, and what comes near one that matches nothing. Free of torch."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The patterns that match none of `names`."""
    names = list(names)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def near(pattern: str, names: Iterable[str]) -> str:
    """'; near it: ...' with the most similar endings of names, as long as the pattern's literal part; else nothing."""
    literal = pattern.strip("*.")
    length = literal.count(".") + 1
    endings = Counter(".".join(name.split(".")[-length:]) for name in names)
    close = difflib.get_close_matches(literal, endings, n=3, cutoff=0.5)
    return f"; near it: {', '.join(close)}" if close else ""
