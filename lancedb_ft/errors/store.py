"""Model stores, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable

from lancedb_ft.errors.base import LancedbFtError, listing

__all__ = [
    "AliasTakenError",
    "FingerprintError",
    "ManifestError",
    "ModelInUseError",
    "ModelKindError",
    "ModelNotFoundError",
    "StoreError",
    "StoreNotFoundError",
    "UnsafeModelError",
]


class StoreError(LancedbFtError):
    """A model store or a model in it cannot be used."""


class StoreNotFoundError(StoreError):
    """There is no model store at this place, or none was named."""

    def __init__(self, uri: str | None, *, reference: str = "") -> None:
        self.uri = uri
        self.reference = reference
        found = f"There is no model store at {uri!r}." if uri else "No model store was named."
        wanted = f" It is needed for {reference!r}." if reference else ""
        super().__init__(
            f"{found}{wanted} Pass store=URI, or set the environment variable LANCEDB_FT_STORE, or "
            'call get_registry().set_var("ft_store", URI). The default place is the folder '
            "'ft_models' inside the LanceDB database."
        )


class ModelNotFoundError(StoreError):
    """The reference names no model."""

    def __init__(
        self, reference: str, *, store: str = "", available: Iterable[str] = (), reason: str = ""
    ) -> None:
        self.reference = reference
        self.store = store
        self.available = list(available)
        self.reason = reason
        place = f" in the store {store!r}, which has {listing(self.available)}" if store else ""
        why = f": {reason}" if reason else "."
        super().__init__(
            f"No model {reference!r}{place}{why} A model is named by 'name@version' in a store, by "
            "the path of a sentence-transformers folder, or by 'hf://org/name@revision'."
        )


class ModelInUseError(StoreError):
    """The version cannot be deleted while tables search with it."""

    exit_code = 3

    def __init__(self, reference: str, *, tables: Iterable[str]) -> None:
        self.reference = reference
        self.tables = list(tables)
        super().__init__(
            f"{reference} is used by {listing(self.tables)}. Re-index and finish those tables "
            "first, or delete it with force=True (--force): their text queries will then fail."
        )


class ManifestError(StoreError):
    """The manifest of a model version cannot be read."""

    def __init__(self, path: str, *, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"The manifest {path!r} cannot be used: {reason}")


class FingerprintError(StoreError):
    """The weights found are not those that were recorded."""

    def __init__(self, reference: str, *, expected: str, found: str) -> None:
        self.reference = reference
        self.expected = expected
        self.found = found
        super().__init__(
            f"{reference!r} has the fingerprint {found[:12]}, and {expected[:12]} was recorded: "
            "these are other weights, and searching with them would give wrong answers. Put the "
            "recorded model back, or re-index the table with this one: lancedb-ft reindex run."
        )


class ModelKindError(StoreError):
    """The model is of another kind: a reranker where an embedder is needed, or the other way."""

    exit_code = 2

    def __init__(self, reference: str, *, found: str, expected: str) -> None:
        self.reference = reference
        self.found = found
        self.expected = expected
        what = {
            "cross-encoder": "a cross-encoder: it scores a query with a text and makes no vectors. "
            f"Rerank with it, FineTunedReranker({reference!r}), and name an embedding model here",
            "embedder": "an embedding model: it makes vectors and scores no pairs. Search with it, "
            "and name a cross-encoder here; train_reranker() makes one",
        }.get(found, f"a {found}, and a {expected} is needed")
        super().__init__(f"{reference!r} is {what}.")


class UnsafeModelError(StoreError):
    """Loading this folder could run code that it brings along."""

    def __init__(self, path: str, *, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"The model folder {path!r} is refused: {reason} Only safetensors weights and "
            "sentence-transformers' own modules are loaded."
        )


class AliasTakenError(LancedbFtError):
    """Another class holds the alias in LanceDB's registry."""

    def __init__(self, alias: str, *, holder: str) -> None:
        self.alias = alias
        self.holder = holder
        super().__init__(
            f"The embedding registry already has {holder} as {alias!r}. Importing lancedb_ft would "
            "silently replace it and break tables that use it: give that class another alias, or "
            "do not import both in one process."
        )
