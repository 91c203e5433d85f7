"""The fingerprint of a model, and the length of its vectors: both without torch."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from lancedb_ft.errors import UnsafeModelError
from lancedb_ft.store.layout import (
    CROSS_ENCODER,
    ONLY_6X,
    Folder,
    canonical,
    config_kind,
    pooling_dims,
    pooling_modes,
)
from lancedb_ft.store.query_adapter import ADAPTER_FILES, CONFIG
from lancedb_ft.store.safetensors_header import tensor_shapes
from lancedb_ft.store.trust import inspect_folder

__all__ = [
    "document_fingerprint_of",
    "fingerprint_folder",
    "fingerprint_of",
    "folder_dims",
    "folder_prompts",
]

_CHUNK_BYTES = 1 << 20
_known: dict[tuple[Any, ...], str] = {}
_lock = threading.Lock()


def fingerprint_folder(path: str | Path) -> str:
    """Return the SHA-256 of everything in a model folder that its vectors depend on.

    That is: weights, tokenizer, modules and their settings, prompts and dims. Not in it: the model
    card, versions of libraries, white space, the order of keys, and which sentence-transformers
    wrote the configs. A copy has the fingerprint of its original, and so has what
    `ModelStore.save` made of a folder.

    The result is kept in the process for as long as no file changes its size or time.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    ModelNotFoundError, UnsafeModelError
        As `lancedb_ft.store.check_folder`.
    """
    return fingerprint_of(inspect_folder(path))


def fingerprint_of(folder: Folder) -> str:
    """Return the fingerprint of a folder that was inspected already."""
    key = _state(folder)
    with _lock:
        if key in _known:
            return _known[key]
    digest = hashlib.sha256()
    for name in folder.files:
        kind = config_kind(name, folder.modules)
        if folder.kind == CROSS_ENCODER and kind in ONLY_6X:
            continue  # one says what every cross-encoder is; the store's copy has none
        if kind is None:
            part: str | None = _hash_file(folder.root / name)
        else:
            core = canonical(kind, folder.configs[name])
            part = hashlib.sha256(core).hexdigest() if core else None
        if part is not None:
            digest.update(f"{name}\0{part}\n".encode())
    digest.update(f"dims={folder_dims(folder)}\n".encode())
    with _lock:
        _known[key] = digest.hexdigest()
        return _known[key]


def document_fingerprint_of(folder: Folder) -> str:
    """Return the fingerprint of what makes the vectors of documents: all but a query adapter.

    That of a model without one is its fingerprint. Models with the same document fingerprint make
    the same vectors of documents.
    """
    files = tuple(name for name in folder.files if name not in ADAPTER_FILES)
    return fingerprint_of(replace(folder, files=files))


def _state(folder: Folder) -> tuple[Any, ...]:
    stats = [(folder.root / name).stat() for name in folder.files]
    seen = zip(folder.files, stats, strict=True)
    return (
        str(folder.root),
        *((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in seen),
    )


def _hash_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def folder_dims(folder: Folder) -> int:
    """Return the length of the vectors that the model makes; 0 for a cross-encoder.

    Raises
    ------
    UnsafeModelError
        The configs do not say it.
    """
    if folder.kind == CROSS_ENCODER:
        return 0
    dims = 0
    for module in folder.modules:
        dims = _dims_after(folder, module.cls, module.path, dims)
    if dims < 1:
        raise UnsafeModelError(
            str(folder.root), reason="its configs do not say how long its vectors are."
        )
    if dims != (adapted := folder.configs.get(CONFIG, {}).get("dims", dims)):
        reason = f"its query adapter is for {adapted} dimensions, and its model makes {dims}."
        raise UnsafeModelError(str(folder.root), reason=reason)
    cut = folder.configs.get("config_sentence_transformers.json", {}).get("truncate_dim")
    return min(dims, int(cut)) if cut else dims


def _dims_after(folder: Folder, cls: str, path: str, dims: int) -> int:
    prefix = f"{path}/" if path else ""
    config = folder.configs.get(f"{prefix}config.json", {})
    if cls == "Dense":
        return int(config["out_features"])
    if cls == "Pooling":
        return pooling_dims(config) * len(pooling_modes(config))
    if cls == "StaticEmbedding":
        shapes = tensor_shapes(folder.root / f"{prefix}model.safetensors")
        table = shapes.get("embedding.weight", shapes.get("embeddings", ()))
        return table[1] if len(table) == 2 else 0
    if cls == "Transformer":
        return _hidden_size(config)
    return dims


def _hidden_size(config: dict[str, Any]) -> int:
    for key in ("hidden_size", "d_model", "dim", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    nested = config.get("text_config")
    return _hidden_size(nested) if isinstance(nested, dict) else 0


def folder_prompts(folder: Folder) -> dict[str, str]:
    """Return the prompts of a model, those that are not empty."""
    config = folder.configs.get("config_sentence_transformers.json", {})
    return {name: text for name, text in (config.get("prompts") or {}).items() if text}
