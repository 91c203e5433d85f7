"""The adapters of LlamaIndex, with LlamaIndex's own types."""

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.integrations.llama_index import LancedbFtEmbedding, LancedbFtRetriever
from tests.search.words import unit


def found_with(kb, *filters, condition=FilterCondition.AND):
    given = MetadataFilters(filters=list(filters), condition=condition)
    return {node.node_id for node in LancedbFtRetriever(kb, filters=given).retrieve("order")}


def test_it_finds_what_the_search_finds(kb):
    nodes = LancedbFtRetriever(kb, similarity_top_k=3).retrieve("cancel order")
    expected = ft.search(kb, "cancel order", k=3).to_pylist()
    assert all(isinstance(node, NodeWithScore) for node in nodes)
    for node, row in zip(nodes, expected, strict=True):
        assert node.node_id == row["id"]
        assert node.text == row["text"]
        assert node.score == pytest.approx(row["_relevance_score"])
        assert node.metadata["year"] == row["year"]


def test_a_nearer_row_has_the_higher_score(kb):
    nodes = LancedbFtRetriever(kb, mode="vector").retrieve("choose a new password")
    scores = [node.score for node in nodes]
    assert nodes[0].node_id == "d2"
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(-nodes[0].metadata["_distance"])


@pytest.mark.parametrize(
    ("key", "operator", "value", "expected"),
    [
        ("lang", FilterOperator.EQ, "de", {"d3"}),
        ("lang", FilterOperator.NE, "en", {"d3", "d4"}),
        ("year", FilterOperator.GTE, 2024, {"d0", "d3"}),
        ("year", FilterOperator.LT, 2022, {"d4"}),
        ("year", FilterOperator.IN, [2021, 2022], {"d2", "d4"}),
        ("lang", FilterOperator.NIN, ["en"], {"d3", "d4"}),
        ("lang", FilterOperator.IS_EMPTY, None, {"d4"}),
        ("text", FilterOperator.TEXT_MATCH, "it's", {"d3"}),
        ("text", FilterOperator.TEXT_MATCH_INSENSITIVE, "BESTELLUNG", {"d3"}),
        ("lang", FilterOperator.EQ, "x' OR 'a' = 'a", set()),
    ],
)
def test_filters(kb, key, operator, value, expected):
    assert found_with(kb, MetadataFilter(key=key, operator=operator, value=value)) == expected


def test_filters_join(kb):
    english = MetadataFilter(key="lang", value="en")
    new = MetadataFilter(key="year", operator=FilterOperator.GTE, value=2024)
    assert found_with(kb, english, new) == {"d0"}
    assert found_with(kb, english, new, condition=FilterCondition.OR) == {"d0", "d1", "d2", "d3"}
    nested = MetadataFilters(filters=[english, new])
    assert found_with(kb, nested, condition=FilterCondition.NOT) == {"d1", "d2", "d3", "d4"}
    both = LancedbFtRetriever(kb, filters=nested, where="id != 'd0'")
    assert both.retrieve("order") == []


def test_filters_that_cannot_be_used(kb):
    with pytest.raises(ColumnNotFoundError):
        found_with(kb, MetadataFilter(key="colour", value="red"))
    with pytest.raises(InputError):
        found_with(kb, MetadataFilter(key="year", operator=FilterOperator.IN, value=[]))
    with pytest.raises(InputError):
        found_with(kb)


async def test_async_and_a_vector_of_ones_own(kb):
    retriever = LancedbFtRetriever(kb, similarity_top_k=2)
    plain = retriever.retrieve("cancel order")
    assert [n.node_id for n in await retriever.aretrieve("cancel order")] == [
        n.node_id for n in plain
    ]
    vector = unit("the quick brown fox").tolist()
    bundle = QueryBundle("password", embedding=list(vector))
    nodes = LancedbFtRetriever(kb, mode="vector", similarity_top_k=1).retrieve(bundle)
    assert nodes[0].node_id == "d4"
    assert bundle == QueryBundle("password", embedding=list(vector))


async def test_embeddings_are_those_of_the_model(store, encoder):
    model = LancedbFtEmbedding(model_name="tiny@1", store=store)
    texts = ["choose a new password", "the quick brown fox"]
    expected = encoder.encode(texts, kind="document").to_pylist()
    assert model.get_text_embedding_batch(texts) == expected
    assert await model.aget_text_embedding_batch(texts) == expected
    query = encoder.encode(["fox"], kind="query")[0].as_py()
    assert model.get_query_embedding("fox") == query
    assert await model.aget_query_embedding("fox") == query
    assert model.get_text_embedding(texts[0]) == pytest.approx(expected[0], abs=1e-5)
    assert model.to_dict()["model_name"] == "tiny@1"
