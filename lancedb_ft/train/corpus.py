"""Documents of several places in one corpus.

An id says which document is meant in the place it is from, a table or a file, and nothing
elsewhere: rows of every file are numbered from 0. Between places a document is told by its text.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import pyarrow as pa

from lancedb_ft.data.texts import document_id_of, normalise, stable_key
from lancedb_ft.types import Pairs

__all__ = ["corpus_around", "ids_beside", "ids_by_text", "named_as_in"]


def corpus_around(
    dev: Pairs,
    others: Mapping[str, str],
    *,
    n_others: int,
    seed: int,
    chosen: Pairs | None = None,
) -> dict[str, str]:
    """Return the documents of dev queries, and others around them.

    Parameters
    ----------
    dev
        What none of the others may be: beside a document that answers a query, the same text under
        another id would count as a wrong answer.
    others
        ``{doc_id: text}``. One whose id a dev document has gets another id.
    n_others
        At most so many of them, chosen by ``seed``.
    chosen
        Those of ``dev`` that are asked; None: all.
    """
    answers = {normalise(text) for text in dev.table["document"].unique().to_pylist()}
    corpus = dict((dev if chosen is None else chosen).corpus)
    n_wanted = len(corpus) + n_others
    for doc_id in sorted(others, key=lambda doc_id: stable_key(seed, str(doc_id))):
        if len(corpus) >= n_wanted:
            break
        text = others[doc_id]
        if text and text.strip() and normalise(text) not in answers:
            corpus[_free_id(str(doc_id), text, corpus)] = text
    return corpus


def ids_by_text(corpus: Mapping[str, str]) -> dict[str, str]:
    """Return ``{text as it is compared: id}``; of several documents of one text the first."""
    found: dict[str, str] = {}
    for doc_id, text in corpus.items():
        if text and text.strip():  # a blank text tells nothing from another
            found.setdefault(normalise(text), doc_id)
    return found


def named_as_in(
    pairs: Pairs, corpus: Mapping[str, str], by_text: Mapping[str, str] | None = None
) -> Pairs:
    """Return the pairs with the ids that a corpus has for the texts of their documents.

    A document that it lacks keeps its id, or gets another where that one is taken: ``corpus`` and
    the documents of what is returned can stand in one mapping.

    Parameters
    ----------
    by_text
        Of the corpus, see `ids_by_text`, where that is known.
    """
    texts = pairs.table["document"].to_pylist()
    ids = ids_beside(pairs.table["doc_id"].to_pylist(), texts, corpus, by_text)
    place = pairs.table.column_names.index("doc_id")
    return Pairs(pairs.table.set_column(place, "doc_id", pa.array(ids, pa.string())), pairs.source)


def ids_beside(
    ids: Sequence[str],
    texts: Sequence[str],
    corpus: Mapping[str, str],
    by_text: Mapping[str, str] | None = None,
) -> list[str]:
    """Return ids for texts of another place, so that each means one text beside a corpus, too."""
    known = dict(ids_by_text(corpus) if by_text is None else by_text)
    taken = set(corpus)
    found = []
    for own, text in zip(ids, texts, strict=True):
        key = normalise(text)
        if own in corpus and normalise(corpus[own] or "") == key:
            found.append(own)  # of several documents of that text, the one that is meant
            continue
        if key not in known:
            known[key] = _free_id(own, text, taken)
            taken.add(known[key])
        found.append(known[key])
    return found


def _free_id(doc_id: str, text: str, taken: Container[str]) -> str:
    """Return the id, or where that is taken one made of the text."""
    if doc_id not in taken:
        return doc_id
    made = document_id_of(text)
    while made in taken:  # the id of a text that was changed since
        made += "+"
    return made
