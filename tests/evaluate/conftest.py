"""An embedding one can read: a text's vector counts the words of a small vocabulary."""

import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import TextEmbeddingFunction, get_registry, register

WORDS = ("red", "green", "blue", "apple", "pear", "car", "boat", "tree")


def word_vector(text):
    """Unit vector of word counts; None where no word is known."""
    words = text.lower().split()
    counts = np.array([words.count(word) for word in WORDS], np.float32)
    norm = np.linalg.norm(counts)
    return counts / norm if norm else None


class WordEncoder:
    """Encodes as `word_vector`; ``sign=-1`` is another model with other vectors."""

    def __init__(self, sign=1):
        self.sign = sign
        self.calls = []

    def encode(self, texts, *, kind="document", progress=None):
        self.calls.append((kind, list(texts)))
        vectors = [word_vector(text or "") for text in texts]
        rows = [None if v is None else (v * self.sign).tolist() for v in vectors]
        if progress is not None:
            progress(len(texts), len(texts))
        return pa.array(rows, pa.list_(pa.float32(), len(WORDS)))


class _Words(TextEmbeddingFunction):
    sign: int = 1
    max_retries: int = 0

    def ndims(self):
        return len(WORDS)

    def generate_embeddings(self, texts):
        vectors = [word_vector(text) for text in texts]
        return [None if v is None else v * self.sign for v in vectors]


@pytest.fixture(scope="session")
def words_function():
    """`word_vector` in LanceDB's registry."""
    register("test-evaluate-words")(_Words)
    return get_registry().get("test-evaluate-words").create(max_retries=0)


@pytest.fixture
def encoder():
    return WordEncoder()


@pytest.fixture
def other_encoder():
    return WordEncoder(sign=-1)
