"""Text to vectors, through one encoder per model and process.

::

    get_encoder("support@3").encode(texts) -> pa.FixedSizeListArray

    texts.py      the rows as distinct texts (each is encoded once; null and blank are null)
    tokens.py     tokenize a window once, cut it into batches of equal length by token count
    bags.py       static models: whole windows cut into pieces, each tokenized once
    core.py       Encoder: the forward pass, prompts, truncation, Arrow in and out
    loading.py    the one place where a model folder becomes a running model
    precision.py  float32 or bfloat16: timed and compared, not assumed
    openvino.py   the network run by OpenVINO instead of torch, behind the same checks
    pool.py       the same model in several processes
    cache.py      get_encoder: loaded once, however many threads ask first

torch and sentence-transformers are imported by the first call, not by this package.
"""

from lancedb_ft.encoder.cache import clear_encoders, get_encoder
from lancedb_ft.encoder.core import Encoder, Kind
from lancedb_ft.encoder.loading import load_sentence_transformer, resolve_device

__all__ = [
    "Encoder",
    "Kind",
    "clear_encoders",
    "get_encoder",
    "load_sentence_transformer",
    "resolve_device",
]
