"""An encoder whose vectors say which text and which model made them: readable, instant, exact."""

import zlib

import numpy as np
import pyarrow as pa


def vector_of(text, salt, dims=8):
    """The unit vector of a text under the model ``salt``."""
    rng = np.random.default_rng(zlib.crc32(f"{salt}:{text}".encode()))
    vector = rng.normal(size=dims).astype(np.float32)
    return vector / np.linalg.norm(vector)


class FakeEncoder:
    """Has what backfill, verify and the gate use of an encoder."""

    precision = "float32"
    device = "cpu"
    max_tokens = 64

    def __init__(self, salt="new", dims=8):
        self.salt = salt
        self.dims = dims
        self.ref = f"fake-{salt}"
        self.fingerprint = f"{zlib.crc32(salt.encode()):064x}"
        self.encoded = []
        self.before_encode = None

    def encode(self, texts, *, kind="document", progress=None):
        """Return one vector per text; null and blank texts give null."""
        texts = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
        if self.before_encode is not None:
            self.before_encode(texts)
        self.encoded += texts
        null = np.array([text is None or not text.strip() for text in texts], dtype=bool)
        matrix = np.zeros((len(texts), self.dims), np.float32)
        for row, text in enumerate(texts):
            if not null[row]:
                matrix[row] = vector_of(text, self.salt, self.dims)
        if progress is not None:
            progress(len(texts), len(texts))
        return pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.reshape(-1)), self.dims, mask=pa.array(null)
        )
