"""Static models: a text's vector is the mean of its tokens' vectors, so the tokenizer is the cost.

sentence-transformers tokenizes text by text. A BERT tokenizer never makes a token across a space
or beside an ASCII punctuation mark, so here Arrow cuts a window of texts there, and each distinct
piece is tokenized once and remembered: 8,000 command lines have 5,000 pieces. What comes out is
token for token the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

__all__ = ["BagTokenizer", "embed_bags", "is_static"]

_Ints: TypeAlias = "npt.NDArray[np.int64]"

#: Below so many texts, such as for one query, the tokenizer alone is quicker.
_FEW = 32
#: Pieces remembered, of about 100 bytes each; then all are forgotten and it begins anew.
_MAX_REMEMBERED = 200_000
#: More added tokens than this are not looked for in every text.
_MAX_ADDED = 32
#: ASCII punctuation as BERT has it: all that is neither letter, digit, space nor control.
_PUNCTUATION = r"([!-/:-@\[-`{-~])"


def is_static(model: SentenceTransformer) -> bool:
    """Say whether a model is a table of token vectors, whatever modules follow."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    first = model[0]
    return type(first) is StaticEmbedding and first.embedding.mode == "mean"


class BagTokenizer:
    """The tokens of many short texts at once, as a static model reads them.

    Holds a private copy of the tokenizer, so several threads may use one.

    Parameters
    ----------
    tokenizer
        Of the static model.
    prompt
        What stands before each text.
    """

    def __init__(self, tokenizer: Tokenizer, *, prompt: str | None = None) -> None:
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._prompt = prompt or ""
        self._known: dict[str, Sequence[int]] = {}
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._by_piece = _may_be_cut(self._tokenizer, list(added))
        self._added = "|".join(re.escape(token.content) for token in added)

    def ids(self, texts: Sequence[str]) -> tuple[_Ints, _Ints]:
        """Tokenize, without special tokens.

        Returns
        -------
        tuple of npt.NDArray[np.int64]
            All token ids in a row, and the number of tokens of each text, shape ``(len(texts),)``.
        """
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        if self._by_piece and len(texts) >= _FEW:
            column = pa.array(texts, pa.large_string())
            if not (self._added and pc.any(pc.match_substring_regex(column, self._added)).as_py()):
                return self._ids_by_piece(column)
        return _flat(self._tokenize(texts))

    def _tokenize(self, texts: Sequence[str]) -> list[Sequence[int]]:
        made = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in made]

    def _ids_by_piece(self, texts: pa.Array) -> tuple[_Ints, _Ints]:
        spaced = pc.replace_substring_regex(texts, _PUNCTUATION, r" \1 ")
        cut = pc.split_pattern(spaced, " ")
        pieces = pc.dictionary_encode(cut.flatten())
        codes = pieces.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        flat, lengths = _flat(self._remembered(pieces.dictionary.to_pylist()))
        # Each piece of each text stands for the run of tokens it has in ``flat``.
        runs = lengths[codes]
        first = (np.cumsum(lengths) - lengths)[codes] - (np.cumsum(runs) - runs)
        places = np.arange(int(runs.sum())) + np.repeat(first, runs)
        # A text always has a piece, if only an empty one, so no segment is empty.
        starts = np.asarray(cut.offsets, np.int64)[:-1] - cut.offsets[0].as_py()
        return flat[places], np.add.reduceat(runs, starts)

    def _remembered(self, pieces: list[str]) -> list[Sequence[int]]:
        known = self._known
        if len(known) + len(pieces) > _MAX_REMEMBERED:
            known = self._known = {}  # another thread may go on with the old one
        new = [piece for piece in pieces if piece not in known]
        known.update(zip(new, self._tokenize(new), strict=True))
        return [known[piece] for piece in pieces]


def embed_bags(
    model: SentenceTransformer, tokenizer: BagTokenizer, texts: Sequence[str]
) -> torch.Tensor:
    """Return the vectors of some texts, as ``model.encode`` would.

    Parameters
    ----------
    model
        One that `is_static`.
    texts
        At least one.
    """
    import torch

    ids, lengths = tokenizer.ids(texts)
    embedding: Any = model[0].embedding
    device = embedding.weight.device
    starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)
    features = {"sentence_embedding": embedding(torch.from_numpy(ids).to(device), starts)}
    for module in list(model)[1:]:
        features = module(features)
    vectors: torch.Tensor = features["sentence_embedding"]
    return vectors


def _may_be_cut(tokenizer: Tokenizer, added: Sequence[Any]) -> bool:
    """Say whether texts may be cut at spaces and ASCII punctuation before they are tokenized."""
    config = json.loads(tokenizer.to_str())
    kinds = [(config.get(part) or {}).get("type") for part in _BERT]
    # An added token that is looked for in the lower-cased text would escape the search for it.
    plain = len(added) <= _MAX_ADDED and not any(token.normalized for token in added)
    return kinds == list(_BERT.values()) and config.get("truncation") is None and plain


_BERT = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}


def _flat(rows: Sequence[Sequence[int]]) -> tuple[_Ints, _Ints]:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum())), lengths
