"""What a model card says of a kind of model: the same for every model of that kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lancedb_ft.store.layout import CROSS_ENCODER, EMBEDDER

__all__ = ["CardWords", "words_for"]


@dataclass(frozen=True)
class CardWords:
    """Sentences of a card.

    Parameters
    ----------
    tags
        Of the Hub; the first is the task.
    what
        What the model is.
    use
        How to use it; ``$REFERENCE`` stands for ``name@version``.
    limits
        What it is not good for.
    """

    tags: tuple[str, ...]
    what: str
    use: str
    limits: str


_EMBEDDER = CardWords(
    tags=("sentence-similarity", "feature-extraction"),
    what=(
        "A sentence-transformers model, fine-tuned on the data of a LanceDB table with lancedb-ft."
        " It maps texts to vectors; texts that answer one another get vectors that are close."
    ),
    use="""\
With LanceDB, from the store that it was saved in; queries and rows get their vectors by it:

```python
import lancedb_ft
from lancedb.embeddings import get_registry

model = get_registry().get("ft-embed").create(name="$REFERENCE")
```

With sentence-transformers, from this folder:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
queries = model.encode_query(["how do I cancel?"])
documents = model.encode_document(["Cancel in the settings."])
print(model.similarity(queries, documents))
```""",
    limits="""\
- It is made for texts like those it was trained on. The intervals say how the figures would vary
  with other queries of the same kind; they say nothing of other kinds of text.
- Its vectors are of its own space: vectors of another model, or of another version, cannot be
  compared with them. Tell models apart by their fingerprints.""",
)

_CROSS_ENCODER = CardWords(
    tags=("text-ranking", "cross-encoder"),
    what=(
        "A cross-encoder, fine-tuned on the data of a LanceDB table with lancedb-ft. It reads a"
        " query and a text together and says how well the text answers the query, from 0 to 1:"
        " what a first search found is put in a better order by it."
    ),
    use="""\
With LanceDB, from the store that it was saved in:

```python
from lancedb_ft import FineTunedReranker

reranker = FineTunedReranker("$REFERENCE", column="text")
table.search("how do I cancel?", query_type="hybrid").rerank(reranker).limit(10)
```

With sentence-transformers, from this folder:

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("path/of/this/folder")
print(model.predict([("how do I cancel?", "Cancel in the settings.")]))
```""",
    limits="""\
- It is made for texts like those it was trained on. The intervals say how the figures would vary
  with other queries of the same kind; they say nothing of other kinds of text.
- It orders what it is shown, and finds nothing by itself. Each text costs a pass through the model
  at every query.""",
)

_WORDS = {EMBEDDER: _EMBEDDER, CROSS_ENCODER: _CROSS_ENCODER}


def words_for(kind: Any) -> CardWords:
    """Return the words for a kind of model; those of an embedder where the manifest names none."""
    return _WORDS.get(kind, _EMBEDDER) if isinstance(kind, str) else _EMBEDDER
