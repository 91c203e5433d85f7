"""The encoder: texts in, Arrow vectors out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.arguments import is_whole
from lancedb_ft.encoder.bags import BagTokenizer, embed_bags, is_static
from lancedb_ft.encoder.loading import require_torch
from lancedb_ft.encoder.query_adapter import adapted, adapter_tensors
from lancedb_ft.encoder.texts import DistinctTexts, Texts, distinct_texts
from lancedb_ft.encoder.tokens import BatchLimit, TokenIds, WindowTokenizer, token_batches
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.flow import ahead
from lancedb_ft.memory import kept_memory
from lancedb_ft.types import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from lancedb_ft.store.query_adapter import QueryAdapter

__all__ = ["Encoder", "Kind", "check_kind"]

#: Which prompt a text gets: that of the documents in the table, or that of the queries.
Kind: TypeAlias = Literal["document", "query"]

Vectors: TypeAlias = "npt.NDArray[np.float32]"
_Done: TypeAlias = "Callable[[npt.NDArray[np.int64]], None]"

#: Distinct texts that are tokenized, sorted and batched together: enough that a batch is of equal
#: length, few enough that their tokens fit in memory and progress flows; and that of the 8,192 rows
#: which re-indexing sends at a time, half are tokenized while the model is at the others.
WINDOW = 4096

#: From so many texts on, keeping memory between batches pays for giving it back at the end.
MANY = 256

# Texts a call for models without a plain tokenizer; sentence-transformers batches them itself.
_PLAIN_CHUNK = 1024

# The prompt names sentence-transformers 6 tries, in its order (encode_query, encode_document).
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def check_kind(kind: str) -> None:
    """Raise `InputError` unless ``kind`` is "document" or "query"."""
    if kind not in _PROMPT_NAMES:
        raise InputError(f"kind is {kind!r}; it must be 'document' or 'query'.")


class _Window(NamedTuple):
    """Texts of one window, and their tokens where a plain tokenizer makes them."""

    texts: list[str]
    ids: list[TokenIds] | None


class Encoder:
    """A running embedding model.

    Made by `get_encoder`, or with `Encoder.of` from a model in memory. Threads may share one.

    Attributes
    ----------
    ref
        The reference it was asked for, such as ``support@3``.
    fingerprint
        SHA-256 of the model; empty for a model that lives in memory only.
    document_fingerprint
        The same without the query adapter: encoders that share it give the same documents' vectors.
    query_adapter
        What turns the vectors of queries, or None.
    dims
        Length of the vectors.
    device
        Where it runs: ``cpu``, ``cuda:0``, ``mps``.
    precision
        ``float32`` or ``bfloat16``: what the weights are held in. Vectors are always float32.
    backend
        What runs the network: ``torch`` or ``openvino``.
    path
        The folder it was loaded from; None for a model that lives in memory only.
    max_tokens
        Longer texts are truncated to so many tokens; None if there is no limit.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        ref: str,
        fingerprint: str,
        dims: int | None = None,
        precision: str | None = None,
        backend: str = "torch",
        path: str | None = None,
    ) -> None:
        self._model = model
        self.backend = backend
        self.path = path
        self._width = _output_dims(model)
        self.ref = ref
        self.fingerprint = fingerprint
        self.document_fingerprint = fingerprint
        self.query_adapter: QueryAdapter | None = None
        self._adapter_tensors: dict[str, torch.Tensor] = {}
        self.dims = self._checked_dims(dims if dims is not None else model.truncate_dim)
        self.device = str(model.device)
        self.precision = precision or str(model.dtype or "float32").removeprefix("torch.")
        limit = model.get_max_seq_length()
        self.max_tokens = int(limit) if limit is not None and limit < 1_000_000_000 else None
        self._lock = threading.RLock()
        self._tokenizers: dict[str, WindowTokenizer | None] = {}
        self._bags: dict[str, BagTokenizer | None] = {}
        self._limit = _batch_limit(self.device, self.precision)

    @classmethod
    def of(cls, model: SentenceTransformer, *, ref: str = "", dims: int | None = None) -> Encoder:
        """Wrap a model in memory, such as one in training.

        The weights are shared: what training changes, the next `encode` uses. Token limit and
        prompts are those the model has now.
        """
        return cls(model, ref=ref, fingerprint="", dims=dims)

    def with_dims(self, dims: int | None) -> Encoder:
        """Return an encoder of the same running model that gives shorter vectors.

        Raises
        ------
        InputError
            The model has no such number of dimensions.
        """
        other = object.__new__(Encoder)
        other.__dict__.update(self.__dict__)
        other.dims = other._checked_dims(dims if dims is not None else self._model.truncate_dim)
        return other

    def with_query_adapter(
        self, adapter: QueryAdapter | None, *, ref: str, fingerprint: str
    ) -> Encoder:
        """Return an encoder of the same running model that turns its query vectors.

        Parameters
        ----------
        adapter
            None for the model alone.
        ref, fingerprint
            Of the model with its adapter.

        Raises
        ------
        InputError
            The adapter is for vectors of another length.
        """
        if adapter is not None and adapter.dims != self._width:
            raise InputError(
                f"The query adapter of {ref or 'the model'} is for {adapter.dims} dimensions, and "
                f"the model makes {self._width}."
            )
        other = object.__new__(Encoder)
        other.__dict__.update(self.__dict__)
        other.ref, other.fingerprint, other.query_adapter = ref, fingerprint, adapter
        other._adapter_tensors = (
            {} if adapter is None else adapter_tensors(adapter, device=self.device)
        )
        return other

    def __repr__(self) -> str:
        """Say which model, how long the vectors are, and where it runs."""
        name = self.ref or "a model in memory"
        how = self.precision if self.backend == "torch" else f"{self.precision}, {self.backend}"
        return f"Encoder({name}, dims={self.dims}, {self.device}, {how})"

    def encode(
        self, texts: Texts, *, kind: Kind = "document", progress: Progress | None = None
    ) -> pa.FixedSizeListArray:
        """Embed texts, each distinct one once.

        Parameters
        ----------
        texts
            ``str | None`` in a sequence, or an Arrow array (chunked, dictionary-encoded: any).
        kind
            ``document`` or ``query``: the prompt the model has for it, if any, is put before each
            text, as ``encode_document`` and ``encode_query`` of sentence-transformers do.
        progress
            Called as ``progress(rows_done, rows)`` after each batch.

        Returns
        -------
        pa.FixedSizeListArray
            ``float32[dims]``, one a row, in order; null for null and for blank text. Normalised if
            the model normalises. Vectors shorter than the model's own are always normalised, since
            truncation leaves them at any length.

        Raises
        ------
        InputError
            What was passed are not texts, or ``kind`` is unknown.
        StoreError
            The model gave NaN or infinite numbers.
        """
        check_kind(kind)
        rows = distinct_texts(texts)
        vectors = np.empty((len(rows.texts), self.dims), np.float32)
        done = _row_progress(rows, progress)
        many = len(rows.texts) >= MANY
        with _evaluating(self._model), kept_memory() if many else nullcontext():
            windows = self._windows(rows, kind)
            # The tokens of the next window are made while the model is at this one.
            with ahead(windows) if len(rows.texts) > WINDOW else nullcontext(windows) as windows:
                start = 0
                for window in windows:
                    end = start + len(window.texts)
                    vectors[start:end] = self._encode_window(window, kind, _shifted(done, start))
                    start = end
        return rows.to_rows(vectors)

    def _windows(self, rows: DistinctTexts, kind: str) -> Iterator[_Window]:
        tokenizer = None if self._bag_tokenizer(kind) is not None else self._tokenizer(kind)
        for start in range(0, len(rows.texts), WINDOW):
            texts = rows.texts.slice(start, WINDOW).to_pylist()
            yield _Window(texts, None if tokenizer is None else tokenizer.ids(texts))

    def token_counts(self, texts: Texts, *, kind: Kind = "document") -> npt.NDArray[np.int64]:
        """Count the tokens the model would read: special ones included, truncated ones not.

        Returns
        -------
        npt.NDArray[np.int64]
            Shape ``(rows,)``; 0 for null and blank. Words, for a model that has no tokens.
        """
        check_kind(kind)
        rows = distinct_texts(texts)
        counts = [
            self._count_window(rows.texts.slice(start, WINDOW).to_pylist(), kind)
            for start in range(0, len(rows.texts), WINDOW)
        ]
        # One more place at the end, for the code -1 of the rows without text.
        return np.concatenate([*counts, np.zeros(1, np.int64)])[rows.codes]

    @property
    def batch_limit(self) -> BatchLimit:
        """How large a batch is on this device."""
        return self._limit

    @property
    def width(self) -> int:
        """Length of the model's vectors before any truncation; a query adapter is for these."""
        return self._width

    # --- one window ------------------------------------------------------------------------

    def _encode_window(self, window: _Window, kind: str, done: _Done) -> Vectors:
        bags, tokenizer = self._bag_tokenizer(kind), self._tokenizer(kind)
        if bags is not None:
            vectors = self._encode_bags(bags, window.texts, kind, done)
        elif tokenizer is None or window.ids is None:
            vectors = self._encode_plainly(window.texts, kind, done)
        else:
            vectors = self._encode_tokens(tokenizer, window.ids, kind, done)
        if not np.isfinite(vectors).all():
            n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
            raise StoreError(
                f"{self!r} gave NaN or infinite numbers for {n_bad} texts. Try "
                'precision="float32"; if it stays, the weights are damaged.'
            )
        return vectors

    def _encode_bags(self, bags: BagTokenizer, texts: list[str], kind: str, done: _Done) -> Vectors:
        import torch

        with torch.inference_mode():
            vectors = self._finish(embed_bags(self._model, bags, texts), kind)
        done(np.arange(len(texts)))
        return vectors

    def _encode_tokens(
        self, tokenizer: WindowTokenizer, ids: Sequence[TokenIds], kind: str, done: _Done
    ) -> Vectors:
        import torch

        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        places, outputs = [], []
        with torch.inference_mode():
            for batch in token_batches(lengths, self._limit):
                outputs.append(self._forward(tokenizer, [ids[i] for i in batch], kind))
                places.append(batch)
                done(batch)
            # One copy off the device a window: a copy a batch would wait for each batch.
            found = self._finish(torch.cat(outputs), kind)
        vectors = np.empty_like(found)
        vectors[np.concatenate(places)] = found
        return vectors

    def _forward(self, tokenizer: WindowTokenizer, ids: list[TokenIds], kind: str) -> torch.Tensor:
        import torch

        try:
            features = tokenizer.features(ids, self.device)
            return self._model(features, task=kind)["sentence_embedding"]  # type: ignore[no-any-return]
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        # Outside the except block, where the exception no longer holds the tensors that filled it.
        half = len(ids) // 2
        parts = [self._forward(tokenizer, part, kind) for part in (ids[:half], ids[half:])]
        return torch.cat(parts)

    def _encode_plainly(self, texts: list[str], kind: str, done: _Done) -> Vectors:
        import torch

        encode = getattr(self._model, f"encode_{kind}")
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(texts), _PLAIN_CHUNK):
                chunk = texts[start : start + _PLAIN_CHUNK]
                with self._lock:  # tokenizers that are shared and change their settings
                    made = encode(
                        chunk,
                        batch_size=_PLAIN_CHUNK if self.max_tokens is None else 32,
                        truncate_dim=self._width,  # cut in _finish, after the adapter
                        convert_to_tensor=True,
                        show_progress_bar=False,
                    )
                outputs.append(self._finish(made, kind))
                done(np.arange(start, start + len(chunk)))
        return np.concatenate(outputs)

    def _finish(self, vectors: torch.Tensor, kind: str) -> Vectors:
        import torch

        vectors = vectors.float()
        if kind == "query" and self._adapter_tensors:
            vectors = adapted(vectors, self._adapter_tensors)
        shorter = self.dims < vectors.shape[1]
        vectors = vectors[:, : self.dims]
        # bfloat16 has 8 bits of mantissa: what the model normalised in it has a norm of 1 +- 0.4 %.
        if shorter or (self.precision != "float32" and _normalizes(self._model)):
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors.cpu().numpy()

    def _count_window(self, texts: list[str], kind: str) -> npt.NDArray[np.int64]:
        bags, tokenizer = self._bag_tokenizer(kind), self._tokenizer(kind)
        if bags is not None:
            return bags.ids(texts)[1]
        if tokenizer is not None:
            ids = tokenizer.ids(texts)
            return np.fromiter(map(len, ids), np.int64, len(ids))
        with self._lock:
            features = self._model.preprocess(texts, prompt=self.prompt(kind), task=kind)
        if "attention_mask" in features:
            return np.asarray(features["attention_mask"].sum(dim=1), np.int64)
        return np.array([len(text.split()) for text in texts], np.int64)

    # --- what the model is -----------------------------------------------------------------

    def _tokenizer(self, kind: str) -> WindowTokenizer | None:
        with self._lock:
            if kind not in self._tokenizers:
                self._tokenizers[kind] = WindowTokenizer.of(
                    self._model, task=kind, prompt=self.prompt(kind)
                )
            return self._tokenizers[kind]

    def _bag_tokenizer(self, kind: str) -> BagTokenizer | None:
        with self._lock:
            if kind not in self._bags:
                first: Any = self._model[0]
                self._bags[kind] = (
                    BagTokenizer(first.tokenizer, prompt=self.prompt(kind))
                    if is_static(self._model)
                    else None
                )
            return self._bags[kind]

    def prompt(self, kind: str) -> str | None:
        """Return what stands before each text, as sentence-transformers would choose it."""
        prompts = self._model.prompts
        for name in _PROMPT_NAMES[kind]:
            if name in prompts:
                return prompts[name]
        default = self._model.default_prompt_name
        return prompts.get(default) if default is not None else None

    def _checked_dims(self, dims: int | None) -> int:
        if dims is None:
            return self._width
        if not is_whole(dims, 1, self._width):
            raise InputError(
                f"dims is {dims!r}; {self.ref or 'the model'} has {self._width} dimensions, and "
                f"dims must be a number from 1 to {self._width}."
            )
        return dims


def _output_dims(model: SentenceTransformer) -> int:
    """Return how long the vectors are before any truncation."""
    with model.truncate_embeddings(None):
        dims = model.get_embedding_dimension()
    if dims is None:
        raise InputError(
            f"Cannot tell how long the vectors of {model} are: its last module does not say."
        )
    return int(dims)


def _normalizes(model: SentenceTransformer) -> bool:
    return type(list(model)[-1]).__name__ == "Normalize"


def _batch_limit(device: str, precision: str) -> BatchLimit:
    """Return the batch size for a device.

    On two cores of an EPYC, 240 docstrings of 166 tokens, texts a second and core in float32:
    20.3 (256 tokens a batch), 20.8 (512), 21.5 (1,024), 21.0 (2,048), 19.3 (4,096); bfloat16: 34.8
    (1,024), 33.4 (4,096). More threads need more rows to share.
    """
    torch = require_torch()
    if device.startswith("cuda"):
        return BatchLimit(n_tokens=65_536, n_texts=2_048)
    if device.startswith("cpu"):
        n_threads = torch.get_num_threads()
        if precision == "bfloat16":  # half the bytes: twice the tokens stay in the caches
            return BatchLimit(n_tokens=max(2_048, 1_024 * n_threads), n_texts=128)
        return BatchLimit(n_tokens=max(1_024, 512 * n_threads), n_texts=128)
    return BatchLimit(n_tokens=16_384, n_texts=512)


def _row_progress(rows: DistinctTexts, progress: Progress | None) -> _Done:
    """Return a function that reports the rows of a batch of distinct texts as done."""
    if progress is None:
        return lambda batch: None
    counts = rows.row_counts()
    n_done = rows.n_rows - int(counts.sum())  # rows without text need no work

    def done(batch: npt.NDArray[np.int64]) -> None:
        nonlocal n_done
        n_done += int(counts[batch].sum())
        progress(n_done, rows.n_rows)

    if not len(counts):
        progress(rows.n_rows, rows.n_rows)
    return done


def _shifted(done: _Done, start: int) -> _Done:
    return lambda batch: done(batch + start)


@contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    """Switch dropout off, and for a model in training on again."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
