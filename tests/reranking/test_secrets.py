"""A service that repeats the key it was sent: no form of it gets into an error."""

import traceback

import pytest

import lancedb_ft as ft
from lancedb_ft.errors import RerankError
from lancedb_ft.reranking.guard import Counters
from lancedb_ft.reranking.remote import Service
from tests.reranking.service import status
from tests.search.words import words_table

KEYS = [
    "sk-plain0123456789",
    "sk-it's-0123456789",
    "sk-back\\slash0123",
    "sk-two  spaces0123",
    'sk-quo"te0123456',
]


def reranker_of(kind, url):
    guard = ft.RerankGuard(on_failure="raise", retries=0)
    if kind == "cohere":
        return ft.CohereReranker(base_url=url, guard=guard)
    return ft.LLMReranker("m", base_url=f"{url}/v1", guard=guard)


@pytest.mark.parametrize("kind", ["cohere", "llm"])
@pytest.mark.parametrize("key", KEYS)
def test_a_repeated_key_is_cut_out(service, db, monkeypatch, kind, key):
    monkeypatch.setenv("COHERE_API_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    body = {"message": f"bad {key} here", "error": {key: [f"key {key}", 3, None]}}
    service.plan = [status(400, body)]
    docs = words_table(db, n_rows=10)
    with pytest.raises(RerankError, match="HTTP 400") as caught:
        ft.search(docs, "document", k=3, reranker=reranker_of(kind, service.url))
    said = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "***" in said
    # Neither as it is, nor escaped, nor with its blanks put together.
    assert key.split()[0][:8] not in said
    assert key.split()[-1][-8:] not in said


class _Said(Exception):
    """What a client raises whose body is a text: it could not be parsed, or was not."""

    status_code = 400

    def __init__(self, body):
        self.body = body


@pytest.mark.parametrize(
    "said", ['{"error": "sk-back\\\\slash01"}', "sk-back\\slash01", b"sk-back\\slash01"]
)
def test_a_key_within_unparsed_json_is_cut_out(said):
    service = Service("me", ft.RerankGuard(), Counters(), "sk-back\\slash01")
    told = service._told(_Said(said))
    assert "slash" not in told
    assert "***" in told


def test_without_a_key_all_is_told():
    assert Service("me", ft.RerankGuard(), Counters(), "")._told(_Said("no  way")) == "no way"
