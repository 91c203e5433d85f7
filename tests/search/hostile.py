"""Malformed and hostile input, for every entry point that takes a query or a filter."""

import math

import numpy as np

from lancedb_ft.errors import (
    ColumnNotFoundError,
    FilterError,
    LancedbFtError,
    NoTextIndexError,
    QueryError,
)
from lancedb_ft.search import SearchOptions, TextMatch
from tests.search.words import DIMS

#: How many rows the table has that these are asked of: a `words_table`.
N_ROWS = 30
#: SQL that Lance's planner does not know, and panics at.
PANICS = (
    "id = ?",
    "id = $1",
    "id = :x",
    "id = N'a'",
    "id = R'a'",
    "id = B'01'",
    "id = $$a$$",
    "$$'$$ = 'x' ) OR (true OR ' ' = ' '",
)
NAN = [math.nan] * DIMS
#: What is asked, and the error it gives or how many rows.
HOSTILE = {
    "query of another type": ({"query": b"document"}, QueryError),
    "query is a list": ({"query": ["document"]}, QueryError),
    "query is a number": ({"query": 7.5}, QueryError),
    "query is blank": ({"query": " \t\u2028\u3000"}, QueryError),
    "query is half a surrogate pair": ({"query": "x\udfff"}, QueryError),
    "query of NUL and control characters": ({"query": "\x00\x01document\x7f"}, N_ROWS),
    "query of right-to-left marks and joiners": ({"query": "\u202edocument\u200d"}, 10),
    "query of 2,000 combining marks": ({"query": "e" + "\u0301" * 2_000}, 10),
    "query of 300,000 characters": ({"query": "document " * 33_334}, 10),
    "query in the syntax of full-text engines": ({"query": '+"document" -(number) ~2^9 *:*'}, 10),
    "query in JSON of full-text queries": ({"query": '{"match_all": {"boost": 1}} document'}, 10),
    "query with SQL": ({"query": "document'; DROP TABLE docs; --"}, 10),
    "k is 0": ({"k": 0}, QueryError),
    "k is negative": ({"k": -1}, QueryError),
    "k is 10^9": ({"k": 10**9}, N_ROWS),
    "k is 10^30": ({"k": 10**30}, N_ROWS),
    "k is a float": ({"k": 5.0}, QueryError),
    "k is a boolean": ({"k": True}, QueryError),
    "candidates are text": ({"candidates": "50"}, QueryError),
    "mode that is none": ({"mode": "HYBRID"}, QueryError),
    "mode of another type": ({"mode": ["fts"]}, QueryError),
    "filter with two statements": ({"where": "id = 'd1'; DELETE FROM docs"}, FilterError),
    "filter that closes our parenthesis": ({"where": "id = 'd1') OR (1 = 1"}, FilterError),
    "filter that is always true by a comment": ({"where": "id = 'd1' --' AND id = 'x'"}, 1),
    "filter on a column that is not there": ({"where": "password = 'x'"}, FilterError),
    "filter that is no condition": ({"where": "id || text"}, FilterError),
    "filter with a subquery": ({"where": "id IN (SELECT id FROM docs)"}, FilterError),
    "filter nested 200 times": ({"where": "(" * 200 + "id = 'd1'" + ")" * 200}, FilterError),
    "filter half a surrogate pair": ({"where": "id = '\ud83d'"}, FilterError),
    **{f"filter that Lance panics at, {sql}": ({"where": sql}, FilterError) for sql in PANICS},
    "filter whose comment has no end": ({"where": "id = 'd1' /*"}, FilterError),
    "filter whose quote has no end": ({"where": "id = 'd1' OR id = 'd2"}, FilterError),
    "filter that closes our parenthesis behind a comment": (
        {"where": "id = 'd1' /* ( */) OR (1 = 1"},
        FilterError,
    ),
    "filter is blank": ({"where": " \n"}, FilterError),
    "filter with NUL": ({"where": "id = 'd1\x00'"}, 0),
    "filter of another type": ({"where": {"id": "d1"}}, FilterError),
    "filter that divides by zero": ({"where": "1 / (`group` - `group`) = 1"}, FilterError),
    "columns that are not there": ({"select": ["id", "nope"]}, ColumnNotFoundError),
    "columns as one text": ({"select": "id"}, QueryError),
    "columns as expressions": ({"select": ["upper(id)"]}, ColumnNotFoundError),
    "columns of other types": ({"select": [None, 3]}, QueryError),
    "columns are no list": ({"select": 3}, QueryError),
    "column is half a surrogate pair": ({"select": ["\ud800"]}, ColumnNotFoundError),
    "vector column that is text": ({"column": "text"}, ColumnNotFoundError),
    "vector column of another type": ({"column": ["vector"]}, QueryError),
    "text column without an index": ({"text_columns": ["id"]}, NoTextIndexError),
    "text columns are empty": ({"text_columns": []}, QueryError),
    "boost is NaN": ({"text_columns": {"text": math.nan}}, QueryError),
    "boost is 10^30": ({"text_columns": {"text": 1e30}}, QueryError),
    "reranker is a name": ({"reranker": "cohere"}, QueryError),
    "reranker is a class": ({"reranker": dict}, QueryError),
    "embedder is a name": ({"embedder": "ft-embed"}, QueryError),
    "embedder gives NaN": ({"embedder": lambda text: NAN}, QueryError),
    "embedder gives another length": ({"embedder": lambda text: [1.0]}, QueryError),
    "options are a dict": ({"options": {"page": "first"}}, QueryError),
    "page is forged": ({"options": SearchOptions(page="WzEsMCw1LCJ4Il0")}, QueryError),
    "facet that is not there": ({"options": SearchOptions(facets=["n"])}, ColumnNotFoundError),
    "phrase without positions": (
        {"options": SearchOptions(match=TextMatch("phrase"))},
        LancedbFtError,
    ),
    "bound that nothing meets": ({"options": SearchOptions(min_score=1e300)}, 0),
    "negative distance": ({"options": SearchOptions(max_distance=-1e300)}, 10),
}
VECTORS = {
    "vector of NaN": ({"vector": NAN}, QueryError),
    "vector of infinity": ({"vector": [math.inf] * DIMS}, QueryError),
    "vector beyond float32": ({"vector": [1e300] * DIMS}, QueryError),
    "vector of another length": ({"vector": [0.5] * 7}, QueryError),
    "vector of two rows": ({"vector": [[0.5] * DIMS] * 2}, QueryError),
    "vector of text": ({"vector": ["a"] * DIMS}, QueryError),
    "vector of objects": ({"vector": [object()] * DIMS}, QueryError),
    "vector of complex numbers": ({"vector": np.full(DIMS, 1j)}, QueryError),
    "vector is empty": ({"vector": []}, QueryError),
    "vector of zeros": ({"vector": [0.0] * DIMS}, 10),
    "vector of the largest floats": ({"vector": [3e38] * DIMS}, 10),
}
