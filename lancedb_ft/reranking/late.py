"""Token vectors: the one place where a folder becomes a late-interaction (ColBERT) model.

sentence-transformers 6 has the library for it, `MultiVectorEncoder`; what it loads by itself, it
loads as its configs say. So a folder is first written anew as the embedder that it is without the
scoring, with links to the same weights; that copy must pass the check of the store and is loaded
as every embedder is, and the scoring is put behind it here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lancedb_ft.encoder import resolve_device
from lancedb_ft.encoder.loading import load_sentence_transformer
from lancedb_ft.errors import ModelKindError, ModelNotFoundError, StoreError, UnsafeModelError
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.types import ModelVersion

__all__ = ["TokenModel", "find_token_model", "load_token_model"]

_HOME = "sentence_transformers.multi_vector_encoder.modules."
_MASKS = (f"{_HOME}multi_vector_mask.MultiVectorMask", f"{_HOME}MultiVectorMask")
_MASK_KEYS = {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}
_CONFIG = "config_sentence_transformers.json"
_KIND = "MultiVectorEncoder"
_CAPACITY = 2


class TokenModel(NamedTuple):
    """A model that is on this machine: how it is called, its folder, and whether it can score.

    An embedder is one, too: its token vectors, before they are pooled, were not trained to be
    compared one by one, and can be.
    """

    ref: str
    path: str
    is_late: bool


def find_token_model(
    model: str | Path | ModelVersion | ResolvedModel, *, store: str | None = None
) -> TokenModel:
    """Find a folder that sentence-transformers saved a MultiVectorEncoder in, or an embedder.

    Raises
    ------
    ModelKindError
        It is a cross-encoder.
    ModelNotFoundError, StoreNotFoundError, UnsafeModelError, FingerprintError
        It is not there, or may not be loaded.
    """
    if isinstance(model, (str, Path)):
        path = Path(model).expanduser()
        if _json(path / _CONFIG).get("model_type") == _KIND:
            return TokenModel(str(path.absolute()), str(path.absolute()), True)
    found = resolve_model(model, store=store, kind=None)
    if found.kind != "embedder":
        raise ModelKindError(found.ref, found=found.kind, expected="embedder")
    return TokenModel(found.ref, found.path, False)


_guard = threading.Lock()
_models: OrderedDict[tuple[str, str], Any] = OrderedDict()


def load_token_model(model: TokenModel, *, device: str | None = None) -> Any:
    """Return the running ``MultiVectorEncoder``, loaded once a process.

    Raises
    ------
    UnsafeModelError
        The folder contains what is not allowed.
    StoreError
        It cannot be loaded for another reason.
    MissingExtraError
        torch or sentence-transformers is not installed.
    """
    key = (model.path, resolve_device(device))
    with _guard:
        if key not in _models:
            load = _load_late if model.is_late else _load_embedder
            _models[key] = load(Path(model.path), key[1])
        _models.move_to_end(key)
        while len(_models) > _CAPACITY:
            _models.popitem(last=False)
        return _models[key]


def _load_embedder(path: Path, device: str) -> Any:
    embedder = load_sentence_transformer(path, device=device)
    return _encoder([embedder[0]], {}, embedder.prompts, device)


def _load_late(path: Path, device: str) -> Any:
    entries = _modules(path)
    masks = [entry for entry in entries if entry["type"] in _MASKS]
    if len(masks) != 1:
        raise _refused(path, f"modules.json has {len(masks)} modules MultiVectorMask, not one.")
    mask = _checked_mask(path, masks[0]["path"])
    with tempfile.TemporaryDirectory(prefix="lancedb-ft-") as scratch:
        copy = Path(scratch) / "model"
        shutil.copytree(path, copy, copy_function=_link, symlinks=False)
        shutil.rmtree(copy / masks[0]["path"], ignore_errors=True)
        others = [entry for entry in entries if entry not in masks]
        _write(copy / "modules.json", others)
        prompts = _json(path / _CONFIG).get("prompts") or {}
        _write(copy / _CONFIG, {"model_type": "SentenceTransformer", "prompts": prompts})
        embedder = load_sentence_transformer(copy, device=device)
    return _encoder(list(embedder), mask, embedder.prompts, device)


def _encoder(
    modules: list[Any], mask: Mapping[str, Any], prompts: Mapping[str, str | None], at: str
) -> Any:
    """Put the scoring behind modules that make token vectors."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    known = {name: text for name in ("query", "document") if (text := prompts.get(name))}
    try:
        made = MultiVectorEncoder(
            modules=[*modules, MultiVectorMask(**mask)],
            device=at,
            prompts=known or None,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise StoreError(f"Its modules do not fit together as token vectors: {error}") from error
    return made.eval()


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads((path / "modules.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(str(path), reason="it has no readable modules.json.") from error
    whole = isinstance(entries, list) and all(
        isinstance(e, dict) and isinstance(e.get("type"), str) and isinstance(e.get("path"), str)
        for e in entries
    )
    if not whole:
        raise _refused(path, "modules.json is not a list of modules.")
    return entries  # type: ignore[no-any-return]  # checked above


def _checked_mask(path: Path, folder: str) -> dict[str, Any]:
    if not folder or Path(folder).name != folder or folder in (".", ".."):
        raise _refused(path, f"the module path {folder!r} is not a plain sub-folder.")
    config = _json(path / folder / "config.json")
    if strange := sorted(set(config) - _MASK_KEYS):
        raise _refused(path, f"{folder}/config.json has {strange[0]!r}, which it may not have.")
    for name, value in config.items():
        entries = value if isinstance(value, list) else [value]
        if not all(v is None or isinstance(v, (str, int)) for v in entries):
            raise _refused(path, f"{name!r} in {folder}/config.json is no list of words.")
    return config


def _json(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _link(source: str, target: str) -> None:
    """Copy a file without its bytes where the disk allows it; links are followed by the check."""
    if Path(source).is_symlink():
        raise _refused(Path(source).parent, f"{Path(source).name} is a link; copy the files.")
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(file: Path, document: Any) -> None:
    # Never into the file itself: it may be the original's, under another name.
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(document), "utf-8")


def _refused(path: Path, reason: str) -> UnsafeModelError:
    return UnsafeModelError(str(path), reason=reason)
