"""The one place where a cross-encoder's folder becomes a running model.

What `lancedb_ft.encoder.loading` says of trust holds here: the folder is checked first, only
safetensors are read, and no tensor may be missing. sentence-transformers is not asked: its
`CrossEncoder` tokenizes and pads by numbers of texts, and imports what a config names.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lancedb_ft.encoder import resolve_device
from lancedb_ft.errors import InputError, MissingExtraError, StoreError, UnsafeModelError
from lancedb_ft.store import check_folder
from lancedb_ft.store.quiet import without_progress_bars
from lancedb_ft.store.trust import inspect_folder

__all__ = ["CrossEncoderModel", "load_cross_encoder", "new_cross_encoder"]

#: Where neither the tokenizer nor the network says how much it reads.
_MAX_TOKENS = 512


@dataclass(frozen=True)
class CrossEncoderModel:
    """A network that gives a pair of texts one number, and its tokenizer.

    Parameters
    ----------
    network
        Of transformers, in evaluation mode.
    tokenizer
        A fast tokenizer of transformers.
    max_tokens
        The longest pair it reads, special tokens included.
    """

    network: Any
    tokenizer: Any
    max_tokens: int

    def save(self, folder: str | Path) -> None:
        """Write it as a plain transformers folder, as sentence-transformers 5.x and 6.x read it."""
        with without_progress_bars():
            self.network.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


def load_cross_encoder(path: str | Path, *, device: str | None = None) -> CrossEncoderModel:
    """Load a cross-encoder safely: no code of its own, no pickle, no network, no missing tensor.

    Parameters
    ----------
    path
        A folder that `lancedb_ft.store.check_folder` accepts as a cross-encoder.
    device
        See `lancedb_ft.encoder.resolve_device`.

    Raises
    ------
    ModelKindError
        It is an embedder.
    UnsafeModelError
        It contains what is not allowed, or lacks weights, which would be random.
    StoreError
        It cannot be loaded for another reason.
    MissingExtraError
        torch or transformers is not installed.
    """
    check_folder(path, kind="cross-encoder")
    model, missing = _load(Path(path), resolve_device(device))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UnsafeModelError(
            str(path),
            reason=f"its weights lack {len(missing)} of the model's tensors ({shown}), which "
            "would be filled with random numbers.",
        )
    return model


def new_cross_encoder(
    path: str | Path, *, seed: int = 0, device: str | None = None
) -> CrossEncoderModel:
    """Make a cross-encoder from the weights of an embedding model: its network and a new head.

    The head is random, and so are the scores until it is trained.

    Parameters
    ----------
    path
        The folder of an embedder whose first module is a transformer.
    seed
        Of the head.

    Raises
    ------
    InputError
        The model has no transformer that could read a pair of texts.
    UnsafeModelError, StoreError, MissingExtraError
        As `load_cross_encoder`.
    """
    import torch

    check_folder(path, kind="embedder")
    first = inspect_folder(path).modules[0]
    if first.cls != "Transformer":
        raise InputError(
            f"{str(path)!r} is a {first.cls}, which reads words one by one: no reranker can be "
            "made of it. Start from a transformer, such as all-MiniLM-L6-v2."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, missing = _load(Path(path) / first.path, resolve_device(device))
    inner = f"{model.network.base_model_prefix}."
    lost = [n for n in missing if n.startswith(inner) and not n.startswith(f"{inner}pooler.")]
    if lost:
        raise UnsafeModelError(str(path), reason=f"its weights lack {', '.join(lost[:5])}.")
    return model


def _load(path: Path, device: str) -> tuple[CrossEncoderModel, list[str]]:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(
            "transformers", extra="encode", purpose="Running a reranker"
        ) from error
    try:
        with without_progress_bars(), _without_reports():
            network, told = AutoModelForSequenceClassification.from_pretrained(
                str(path),
                num_labels=1,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                weights_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                str(path), trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"The model folder {str(path)!r} cannot be loaded: {error}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise StoreError(f"The model folder {str(path)!r} has no fast tokenizer (tokenizer.json).")
    network = network.to(device).eval()
    missing = sorted(told["missing_keys"])
    return CrossEncoderModel(network, tokenizer, _max_tokens(network, tokenizer)), missing


@contextlib.contextmanager
def _without_reports() -> Iterator[None]:
    """Keep transformers from listing missing tensors: what is missing is judged here."""
    from transformers.utils import logging as reports

    before = reports.get_verbosity()
    reports.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        reports.set_verbosity(before)


def _max_tokens(network: Any, tokenizer: Any) -> int:
    told = (tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None))
    # transformers writes "no limit" as 1e30.
    limits = [int(limit) for limit in told if limit is not None and 0 < limit < 1_000_000_000]
    return min(limits, default=_MAX_TOKENS)
