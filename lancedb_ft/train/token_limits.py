"""How many tokens of a text a model reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["limit_tokens", "read_token_limit"]

#: What a text is taken to have at most where a model does not say how much it reads.
USUAL_TOKENS = 512
#: Where a limit may stand.
_LIMITS = (
    ("sentence_bert_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
    ("config.json", "max_position_embeddings"),
)
#: transformers writes "no limit" as 1e30, and a table of token vectors says infinity.
_NO_LIMIT = 1_000_000_000


def read_token_limit(folder: str | Path) -> int:
    """Return how many tokens of a text a model reads: the least that its files name."""
    found = []
    for file, key in _LIMITS:
        for path in (Path(folder) / file, *sorted(Path(folder).glob(f"*/{file}"))):
            try:
                value = json.loads(path.read_text("utf-8")).get(key)
            except (OSError, ValueError, AttributeError):
                continue
            if isinstance(value, int) and 0 < value < _NO_LIMIT:
                found.append(value)
    return min(found, default=USUAL_TOKENS)


def limit_tokens(model: SentenceTransformer, most: float | None) -> None:
    """Have a model cut its texts there, in place; it is never made to read more than before.

    A table of token vectors reads texts of any length, a look-up a token, and has no limit that
    could be set: it is left as it is.

    Parameters
    ----------
    most
        Tokens; None leaves the model its own limit.
    """
    if most is None or most >= _NO_LIMIT:
        return
    own = model.max_seq_length
    if own is not None and own <= most:
        return
    declared = getattr(type(model[0]), "max_seq_length", None)
    if isinstance(declared, property) and declared.fset is None:
        return
    model.max_seq_length = int(most)
