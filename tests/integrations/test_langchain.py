"""The adapters of LangChain, in LangChain's own pipelines."""

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

import lancedb_ft as ft
from lancedb_ft.errors import FilterError, InputError, QueryError
from lancedb_ft.integrations.langchain import LancedbFtEmbeddings, LancedbFtRetriever


def test_it_finds_what_the_search_finds(kb):
    retriever = LancedbFtRetriever(table=kb, k=3)
    assert isinstance(retriever, BaseRetriever)
    found = retriever.invoke("cancel order")
    expected = ft.search(kb, "cancel order", k=3).to_pylist()
    assert [doc.id for doc in found] == [row["id"] for row in expected]
    assert all(isinstance(doc, Document) for doc in found)
    for doc, row in zip(found, expected, strict=True):
        assert doc.page_content == row["text"]
        assert doc.metadata == {name: row[name] for name in row if name != "text"}
        assert doc.metadata["_relevance_score"] > 0


def test_filters_k_and_columns_pass_through(kb):
    retriever = LancedbFtRetriever(table=kb, where="lang = 'en'", select=["year"])
    found = retriever.invoke("order", k=2)
    assert len(found) == 2
    assert set(found[0].metadata) == {"id", "year", "_relevance_score"}
    assert {doc.id for doc in retriever.invoke("order")} == {"d0", "d1", "d2"}
    assert [doc.id for doc in retriever.invoke("order", where="year < 2023")] == ["d2"]
    assert retriever.invoke("order", where="lang = 'de'") == []


@pytest.mark.parametrize(
    ("mode", "score"), [("vector", "_distance"), ("fts", "_score"), ("hybrid", "_relevance_score")]
)
def test_every_mode_keeps_its_score(kb, mode, score):
    found = LancedbFtRetriever(table=kb, mode=mode, k=1).invoke("how do I cancel my order")
    assert found[0].id == "d0"
    assert score in found[0].metadata


async def test_async_and_batches(kb):
    retriever = LancedbFtRetriever(table=kb, k=2)
    queries = ["cancel order", "new password"]
    together = retriever.batch(queries)
    assert [await retriever.ainvoke(q) for q in queries] == together
    assert await retriever.abatch(queries) == together


def test_it_is_a_runnable(kb):
    chain = LancedbFtRetriever(table=kb, k=1) | RunnableLambda(lambda docs: docs[0].page_content)
    assert chain.invoke("choose a new password") == "choose a new password"


def test_errors_are_ours(kb):
    with pytest.raises(QueryError):
        LancedbFtRetriever(table=kb).invoke("  ")
    with pytest.raises(FilterError):
        LancedbFtRetriever(table=kb, where="lang =").invoke("order")
    with pytest.raises(ValidationError, match="no column 'body'"):  # pydantic's, around ours
        LancedbFtRetriever(table=kb, text_column="body")


def test_embeddings_are_those_of_the_model(store, encoder):
    embeddings = LancedbFtEmbeddings("tiny@1", store=store)
    texts = ["choose a new password", "the quick brown fox"]
    given = list(texts)
    assert embeddings.embed_documents(texts) == encoder.encode(texts, kind="document").to_pylist()
    assert texts == given
    assert embeddings.embed_query("fox") == encoder.encode(["fox"], kind="query")[0].as_py()
    assert embeddings.embed_documents([]) == []


async def test_embeddings_in_a_vector_store(store):
    vectors = InMemoryVectorStore(LancedbFtEmbeddings("tiny@1", store=store))
    docs = [Document(page_content="choose a new password"), Document(page_content="a quick fox")]
    await vectors.aadd_documents(docs)
    found = await vectors.asimilarity_search("choose a new password", k=1)
    assert found[0].page_content == "choose a new password"


def test_a_blank_text_has_no_vector(store):
    embeddings = LancedbFtEmbeddings("tiny@1", store=store)
    with pytest.raises(InputError, match="number 1"):
        embeddings.embed_documents(["fox", " "])
    with pytest.raises(InputError, match="blank"):
        embeddings.embed_query("")
