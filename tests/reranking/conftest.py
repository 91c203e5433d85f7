"""Fixtures of the rerankers that ask a service."""

import pytest

from tests.reranking.service import KEY, Service


@pytest.fixture(scope="session")
def one_service():
    made = Service()
    yield made
    made.close()


@pytest.fixture
def service(one_service, monkeypatch):
    """The server with nothing planned; both kinds of reranker find a key for it."""
    one_service.start_over()
    for name in ("CO_API_KEY", "CO_API_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COHERE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield one_service
    one_service.start_over()
