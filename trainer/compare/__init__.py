"""Base model and adapters side by side: `comparison.compare` draws, `manifest.read_manifest` reads what came of it."""

from trainer.compare.finished import NothingExportedError, exported

__all__ = ["NothingExportedError", "exported"]
