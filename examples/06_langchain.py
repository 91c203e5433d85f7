"""LangChain over a table: hybrid search with filters. Run: python 06_langchain.py FOLDER.

Needs: pip install "lancedb-ft[langchain,minilm]". The database is made in FOLDER/kb.
"""

import sys
from pathlib import Path

import lancedb
from lancedb.embeddings import get_registry
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector
from langchain_core.runnables import RunnableLambda

from lancedb_ft.integrations.langchain import LancedbFtRetriever

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ROWS = [
    {"id": "billing-1", "lang": "en", "text": "Open Billing and press Cancel to end your plan."},
    {"id": "billing-2", "lang": "en", "text": "Refunds reach your card within five days."},
    {"id": "login-1", "lang": "en", "text": "Choose Forgot password to set a new one."},
    {"id": "login-2", "lang": "de", "text": "Das Passwort wird in den Einstellungen erneuert."},
]


def main(folder: Path, model: str = MODEL) -> None:
    """Make a small table; ask it through a LangChain pipeline."""
    function = get_registry().get("ft-embed").create(name=model)

    class Doc(LanceModel):
        id: str
        lang: str
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    docs = lancedb.connect(folder / "kb").create_table("docs", schema=Doc, mode="overwrite")
    docs.add(ROWS)
    docs.create_index("text", config=FTS())

    # A where= here holds for every call; one of a call narrows it.
    retriever = LancedbFtRetriever(table=docs, k=2)
    chain = retriever | RunnableLambda(lambda found: [doc.id for doc in found])
    print("cancel:", chain.invoke("how do I cancel my plan?"))
    print("in German:", [d.id for d in retriever.invoke("password", where="lang = 'de'")])
    best = retriever.invoke("money back to my card")[0]
    print("best:", best.id, sorted(best.metadata))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
