"""`ModelVersion`: what a store gives out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ModelVersion"]


@dataclass(frozen=True)
class ModelVersion:
    """A saved, immutable model: ``name@version`` in the store at ``store``.

    ``path`` is the local folder with the weights (for an object store: the local copy).
    """

    name: str
    version: int
    store: str
    path: str
    fingerprint: str
    dims: int
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def kind(self) -> str:
        """``embedder``, or ``cross-encoder`` for a reranker, whose ``dims`` are 0."""
        return str(self.manifest.get("kind", "embedder"))

    @property
    def document_fingerprint(self) -> str:
        """The fingerprint without a query adapter: the same one, the same vectors of documents."""
        return str(self.manifest.get("document_fingerprint", self.fingerprint))

    def __str__(self) -> str:
        """``name@version``."""
        return self.ref
