"""The one error of everything that reads or writes files, free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath


class FileFormatError(ValueError):
    """A file that is not what it should be, or a state that a layout cannot hold; a sentence says what and what to do.

    Where single entries are to blame they are listed, sorted: `missing`, `unexpected` and `wrong_shape`.
    """

    def __init__(
        self,
        message: str,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        wrong_shape: Iterable[str] = (),
    ) -> None:
        self.message = message
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        self.wrong_shape = tuple(sorted(wrong_shape))
        super().__init__(message + self._listed())

    def in_file(self, path: str | PathLike[str]) -> FileFormatError:
        """The same error, its sentence beginning with the file it is about."""
        message = f"{fspath(path)}: {self.message}"
        return FileFormatError(message, self.missing, self.unexpected, self.wrong_shape)

    def _listed(self) -> str:
        lists = {"missing": self.missing, "unexpected": self.unexpected, "wrong shape": self.wrong_shape}
        return "".join(f"\n  {title} ({len(names)}): {_shortened(names)}" for title, names in lists.items() if names)


def _shortened(names: tuple[str, ...], shown: int = 6) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
