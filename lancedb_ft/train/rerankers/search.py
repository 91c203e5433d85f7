"""The first search of a reranker's dev queries: whose order is to be beaten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lancedb_ft.encoder import Encoder, get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import exact_retriever
from lancedb_ft.store import ResolvedModel
from lancedb_ft.train.checks import check_texts_by_id
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.corpus import corpus_around, named_as_in
from lancedb_ft.train.rerankers.data import LabelledTexts, documents_of
from lancedb_ft.types import ModelVersion, Pairs, Retriever, Run

__all__ = ["FirstSearch", "Searched"]

#: Documents that the first search looks at beside those of dev: it encodes them all.
MAX_DOCUMENTS = 2_000


class Searched(NamedTuple):
    """Dev pairs, the documents they are looked up in, and the search; all with the same ids."""

    dev: Pairs
    documents: Mapping[str, str]
    search: Run | Retriever


@dataclass(frozen=True)
class FirstSearch:
    """The first search, as it is given to `lancedb_ft.train.train_reranker`.

    Raises
    ------
    InputError
        The documents are no texts by id.
    """

    candidates: Run | Retriever | None
    model: str | ModelVersion | None
    documents: Mapping[str, str] | None

    def __post_init__(self) -> None:
        """Reject what would fail after the models are loaded."""
        check_texts_by_id("documents", self.documents)

    def encoder(self, base: ResolvedModel, store: str, compute: Compute) -> Encoder | None:
        """Return the running model of the first search; None where only its result is known."""
        named = self.model or (base if base.kind == "embedder" else None)
        if named is not None:
            return get_encoder(named, store=store, device=compute.device)
        if self.candidates is None:
            raise InputError(
                f"{base.ref} is a cross-encoder and finds nothing by itself. Name the embedding "
                "model of the first search with first_stage=, or pass candidates=retriever(table)."
            )
        return None

    def over(
        self, lists: list[LabelledTexts], dev: Pairs, encoder: Encoder | None, seed: int
    ) -> Searched:
        """Return the documents that are searched, and the search."""
        documents = self.documents
        if documents is None:
            documents = {f"train/{n}": text for n, text in enumerate(documents_of(lists))}
        if self.candidates is None and encoder is not None:
            corpus = corpus_around(dev, documents, n_others=MAX_DOCUMENTS, seed=seed)
            return Searched(dev, corpus, exact_retriever(encoder, corpus))
        # A finished run was made for the dev queries, and names documents as they do. A search
        # names them as its table does, and the dev queries may come from elsewhere.
        if self.documents is not None and not isinstance(self.candidates, Mapping):
            dev = named_as_in(dev, documents)
        return Searched(dev, documents, self.candidates or {})

    def told(self, encoder: Encoder | None) -> dict[str, Any]:
        """Tell for the manifest which search it was."""
        given = {"candidates": "given"} if self.candidates is not None else {}
        return {"model": encoder.ref if encoder else None, **given}
