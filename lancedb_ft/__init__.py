"""lancedb-ft: fine-tuned embedding models for LanceDB tables."""

from lancedb_ft._version import __version__

__all__ = ["__version__"]
