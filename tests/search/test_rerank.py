import pyarrow as pa
import pytest
from lancedb.rerankers import LinearCombinationReranker, MRRReranker, Reranker, RRFReranker

from lancedb_ft.errors import ColumnNotFoundError, QueryError
from lancedb_ft.search import Searcher, search
from tests.search.words import words_table


class ShortestFirst(Reranker):
    """Reads the texts, as a cross-encoder does; the best text is the shortest, then the last."""

    def __init__(self, column="text", return_score="relevance"):
        super().__init__(return_score)
        self.column = column
        self.seen = []

    def _rerank(self, query, rows):
        self.seen.append((query, rows))
        texts = rows[self.column].to_pylist()
        scores = [-len(text) + int(text.split()[-1]) / 1000 for text in texts]
        rows = rows.append_column("_relevance_score", pa.array(scores, pa.float32()))
        return self._keep_relevance_score(rows.sort_by([("_relevance_score", "descending")]))

    def rerank_hybrid(self, query, vector_results, fts_results):
        self.legs = vector_results, fts_results
        if self.score == "all":
            return self._rerank(query, self._merge_and_keep_scores(vector_results, fts_results))
        return self._rerank(query, self.merge_results(vector_results, fts_results))

    def rerank_vector(self, query, vector_results):
        return self._rerank(query, vector_results)

    def rerank_fts(self, query, fts_results):
        return self._rerank(query, fts_results)


@pytest.fixture
def docs(db):
    return words_table(db, n_rows=120)


@pytest.mark.parametrize(
    "reranker",
    [
        RRFReranker(),
        RRFReranker(return_score="all"),
        LinearCombinationReranker(),
        LinearCombinationReranker(weight=0.2, return_score="all"),
        MRRReranker(),
        ShortestFirst(),
        ShortestFirst(return_score="all"),
    ],
    ids=lambda reranker: f"{type(reranker).__name__}-{reranker.score}",
)
def test_same_result_as_lancedb(docs, reranker):
    query = "document number 7"
    ours = search(docs, query, k=10, reranker=reranker)
    theirs = docs.search(query, query_type="hybrid").rerank(reranker).limit(10).to_arrow()
    assert ours["_relevance_score"].to_pylist() == pytest.approx(
        theirs["_relevance_score"].to_pylist()
    )
    assert ours["id"].to_pylist()[0] == theirs["id"].to_pylist()[0]
    theirs_by_id = {row["id"]: row for row in theirs.to_pylist()}
    for row in ours.to_pylist():
        if row["id"] in theirs_by_id:
            same = theirs_by_id[row["id"]]
            assert row == {name: same[name] for name in row}
    shown = {"_distance", "_score"} & set(theirs.column_names)
    assert shown == {"_distance", "_score"} & set(ours.column_names)
    assert len(set(theirs_by_id) & set(ours["id"].to_pylist())) >= 5


def test_what_a_reranker_sees(docs):
    reranker = ShortestFirst()
    found = search(docs, "document number 7", k=4, select=["id"], reranker=reranker, candidates=30)
    assert found.column_names == ["id", "_relevance_score"]
    assert found.num_rows == 4
    vector_rows, text_rows = reranker.legs
    assert vector_rows.num_rows == text_rows.num_rows == 30
    assert vector_rows.column_names == ["id", "text", "_distance", "_rowid"]
    assert text_rows.column_names == ["id", "text", "_score", "_rowid"]
    for rows, score in ((vector_rows, "_distance"), (text_rows, "_score")):
        values = rows[score].to_pylist()
        assert (min(values), max(values)) == (0, 1)
    # All of the 8 shortest texts that either leg found come before the longer ones.
    assert all(len(doc_id) == 2 for doc_id in found["id"].to_pylist()[:1])


@pytest.mark.parametrize("mode", ["vector", "fts"])
def test_one_leg(docs, mode):
    reranker = ShortestFirst()
    found = search(docs, "document number 7", mode=mode, k=5, reranker=reranker, candidates=120)
    assert found["id"].to_pylist() == ["d9", "d8", "d7", "d6", "d5"]
    assert found.column_names[-1] == "_relevance_score"
    query, rows = reranker.seen[0]
    assert (query, rows.num_rows) == ("document number 7", 120)
    everything = ShortestFirst(return_score="all")
    found = search(docs, "document number 7", mode=mode, k=5, reranker=everything)
    assert {"vector": "_distance", "fts": "_score"}[mode] in found.column_names


@pytest.mark.parametrize("mode", ["vector", "fts"])
def test_a_reranker_that_only_merges(docs, mode):
    with pytest.raises(QueryError, match="merges two legs"):
        search(docs, "document", mode=mode, reranker=RRFReranker())


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_nothing_to_rerank(docs, mode):
    where = "id = 'nobody'"
    reranker = ShortestFirst()
    found = search(docs, "document", mode=mode, where=where, reranker=reranker)
    assert found.num_rows == 0
    assert "_relevance_score" in found.column_names
    only_vector = search(docs, "zebra", reranker=reranker, k=3)
    assert only_vector.num_rows == 3


def test_mistakes(docs):
    with pytest.raises(QueryError, match="Reranker"):
        search(docs, "document", reranker="cross-encoder")
    with pytest.raises(QueryError, match="Reranker"):
        search(docs, "document", reranker=ShortestFirst)
    with pytest.raises(ColumnNotFoundError, match="'body'"):
        search(docs, "document", reranker=ShortestFirst(column="body"))
    with pytest.raises(QueryError, match="must be text"):
        search(docs, None, vector=[0.1] * 16, mode="vector", reranker=ShortestFirst())


async def test_async_and_retriever(docs):
    with Searcher(docs) as searcher:
        reranker = ShortestFirst()
        found = await searcher.search_async(
            "document number 7", k=3, reranker=reranker, candidates=120
        )
        assert found["id"].to_pylist() == ["d9", "d8", "d7"]
        run = searcher.retriever(reranker=reranker, candidates=120)({"q": "document number 7"}, 3)
        assert list(run["q"]) == ["d9", "d8", "d7"]
