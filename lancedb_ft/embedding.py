"""The embedding function that LanceDB calls: a fine-tuned model by its reference.

::

    get_registry().get("ft-embed").create(name="support@3", store="data/kb/ft_models")

What LanceDB writes into a table's metadata pins the model: the version, the fingerprint of its
weights, and the store as a variable, so that a moved database is repointed without rewriting it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from lancedb.embeddings import EmbeddingFunctionConfig, TextEmbeddingFunction, get_registry

from lancedb_ft.encoder import Encoder, Kind, get_encoder
from lancedb_ft.encoder.precision import check_precision
from lancedb_ft.errors import AliasTakenError, FingerprintError, InputError, QueryError
from lancedb_ft.store import ResolvedModel, default_store_uri, resolve_model
from lancedb_ft.table import database_uri
from lancedb_ft.types import ModelVersion

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = [
    "ALIAS",
    "STORE_VARIABLE",
    "FineTunedEmbeddings",
    "function_entry",
    "register",
    "require_model",
    "store_for",
    "stores_of_database",
]

#: The name in LanceDB's registry and in the metadata of tables.
ALIAS = "ft-embed"

#: The registry variable that names the model store: ``get_registry().set_var("ft_store", uri)``.
STORE_VARIABLE = "ft_store"

#: The environment variable that names it where the registry variable is not set.
STORE_ENVIRONMENT = "LANCEDB_FT_STORE"


class FineTunedEmbeddings(TextEmbeddingFunction):  # type: ignore[misc]
    """Embeds with a model of lancedb-ft; registered in LanceDB as ``ft-embed``.

    Make it with `create`. The running model is shared by the whole process (see
    `lancedb_ft.encoder.get_encoder`), so that LanceDB may rebuild the function at each call.

    Attributes
    ----------
    name
        ``name@version`` in a store, the path of a model folder, or ``hf://org/name@revision``.
    store
        The model store, for ``name@version``.
    fingerprint
        The fingerprint the model must have.
    device
        Where to run; None or ``auto`` for the best there is.
    dims
        Length of the vectors.
    precision
        ``auto``, ``float32`` or ``bfloat16``.
    max_retries
        Of LanceDB's interface. Nothing is retried: a missing model does not appear by waiting.
    """

    name: str
    store: str | None = None
    fingerprint: str | None = None
    device: str | None = None
    dims: int | None = None
    precision: str = "auto"
    max_retries: int = 0

    @classmethod
    def create(
        cls,
        *,
        name: str,
        store: str | None = None,
        fingerprint: str | None = None,
        device: str | None = None,
        dims: int | None = None,
        precision: str = "auto",
        max_retries: int = 0,
    ) -> FineTunedEmbeddings:
        """Make the function, pinned to one model.

        Without a fingerprint the model is looked up now, and its exact version, commit or path,
        its fingerprint and its dims become part of the function. With one, as LanceDB passes it
        from a table's metadata, nothing is looked up before the first text.

        Parameters
        ----------
        name
            The model: ``support@3``, ``support`` (its latest version now), a folder,
            ``hf://org/name@revision``.
        store
            The model store. Left out, it is the registry variable ``ft_store``, then the
            environment variable ``LANCEDB_FT_STORE``. It is written into tables as
            ``$var:ft_store:<uri>``: there, the variables come first and this place last.
        fingerprint
            The fingerprint the model must have; checked at first use.
        device, precision
            See `lancedb_ft.encoder.get_encoder`.
        dims
            Shorter vectors, for models trained to be truncated.
        max_retries
            Nothing is retried.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            The store or the model is not there (only without ``fingerprint``).
        InputError
            ``precision`` or ``dims`` cannot be used.
        """
        check_precision(precision)
        place = _store_now(store)
        if fingerprint is None:
            found = resolve_model(name, store=place)
            name, fingerprint, place = found.ref, found.fingerprint, found.store
            dims = _checked_dims(dims, found)
            store = store if place is not None else None
        pinned: dict[str, Any] = {
            "name": name,
            "store": _as_variable(store, place),
            "fingerprint": fingerprint,
            "device": None if device == "auto" else device,
            "dims": dims,
            "precision": None if precision == "auto" else precision,
        }
        pinned = {key: value for key, value in pinned.items() if value is not None}
        made: FineTunedEmbeddings = super().create(**pinned, max_retries=max_retries)
        if place is not None:
            made.store = place
        return made

    def ndims(self) -> int:
        """Return the length of the vectors, without loading the model."""
        if self.dims is None:
            self.dims = resolve_model(self.name, store=self.store).dims
        return self.dims

    def encoder(self) -> Encoder:
        """Return the running model, loaded at first use in this process.

        Raises
        ------
        FingerprintError
            The model found is not the one the table was made with.
        ModelNotFoundError, StoreNotFoundError
            It is not there, or its store is not.
        """
        return get_encoder(
            self.name,
            store=self.store,
            device=self.device,
            precision=self.precision,
            dims=self.dims,
            fingerprint=self.fingerprint,
        )

    def generate_embeddings(
        self, texts: Sequence[str | None] | npt.NDArray[Any], *args: Any, **kwargs: Any
    ) -> list[npt.NDArray[np.float32] | None]:
        """Embed documents; None for null and for blank text."""
        return self._embed(texts, "document")

    def compute_source_embeddings(
        self, texts: Any, *args: Any, **kwargs: Any
    ) -> list[npt.NDArray[np.float32] | None]:
        """Embed documents; None for null and for blank text."""
        return self._embed([texts] if isinstance(texts, str) else texts, "document")

    def compute_query_embeddings(
        self, query: Any, *args: Any, **kwargs: Any
    ) -> list[npt.NDArray[np.float32] | None]:
        """Embed one query, or several.

        Raises
        ------
        QueryError
            A query is blank.
        """
        vectors = self._embed([query] if isinstance(query, str) else query, "query")
        if any(vector is None for vector in vectors):
            raise QueryError(
                f"The query {query!r} has no text to embed. Pass some text, or search without a "
                "query: table.search().where(...)."
            )
        return vectors

    # LanceDB calls these two. Its own wrap every error into Exception("Maximum number of retries
    # (0) exceeded.", error), also when nothing is retried, which hides what to do about it.

    def compute_source_embeddings_with_retry(
        self, *args: Any, **kwargs: Any
    ) -> list[npt.NDArray[np.float32] | None]:
        """Embed documents, once; errors are raised as they are."""
        return self.compute_source_embeddings(*args, **kwargs)

    def compute_query_embeddings_with_retry(
        self, *args: Any, **kwargs: Any
    ) -> list[npt.NDArray[np.float32] | None]:
        """Embed queries, once; errors are raised as they are."""
        return self.compute_query_embeddings(*args, **kwargs)

    def _embed(self, texts: Any, kind: Kind) -> list[npt.NDArray[np.float32] | None]:
        found = self.encoder().encode(texts, kind=kind)
        # Rows of NumPy are what LanceDB turns back into Arrow fastest; lists take ten times that.
        rows = np.asarray(found.values, np.float32).reshape(len(found), found.type.list_size)
        if not found.null_count:
            return list(rows)
        filled = np.asarray(found.is_valid())
        return [row if there else None for row, there in zip(rows, filled, strict=True)]


def function_entry(
    model: ModelVersion | ResolvedModel | str,
    *,
    source_column: str,
    vector_column: str,
    store: str | None = None,
    dims: int | None = None,
    precision: str = "auto",
) -> dict[str, Any]:
    """Return what LanceDB keeps in a table's metadata for a model and its two columns.

    Parameters
    ----------
    model
        A saved or resolved model, or a reference to one.
    source_column, vector_column
        The text that is embedded, and the column its vectors go to.
    store
        The model store, for a reference; by default that of the model.
    dims, precision
        See `FineTunedEmbeddings.create`.

    Returns
    -------
    dict
        ``{"name": "ft-embed", "model": {...}, "source_column": ..., "vector_column": ...}``
    """
    if isinstance(model, str):
        function = FineTunedEmbeddings.create(
            name=model, store=store, dims=dims, precision=precision
        )
    else:
        function = FineTunedEmbeddings.create(
            name=model.ref,
            store=store if store is not None else model.store,
            fingerprint=model.fingerprint,
            dims=_checked_dims(dims, model),
            precision=precision,
        )
    register()
    config = EmbeddingFunctionConfig(
        source_column=source_column, vector_column=vector_column, function=function
    )
    entry: dict[str, Any] = get_registry().function_to_metadata(config)
    return entry


def require_model(entry: Mapping[str, Any] | None) -> None:
    """Check that the model which a table's entry names is still where it says, and is still it.

    An encoder that runs in this process says nothing of that. Functions of others are not checked.

    Raises
    ------
    StoreNotFoundError, ModelNotFoundError
        It is not there.
    FingerprintError
        It is another one.
    """
    if entry is None or entry["name"] != ALIAS:
        return
    named = entry["model"]
    found = resolve_model(named["name"], store=_store_now(named.get("store")))
    if found.fingerprint != named["fingerprint"]:
        raise FingerprintError(found.ref, expected=named["fingerprint"], found=found.fingerprint)


def register() -> None:
    """Register `FineTunedEmbeddings` as ``ft-embed``; doing it again changes nothing.

    Raises
    ------
    AliasTakenError
        A class of somebody else holds the alias; LanceDB would replace it without a word.
    """
    registry = get_registry()
    try:
        holder = registry.get(ALIAS)
    except KeyError:
        holder = None
    if holder is FineTunedEmbeddings:
        return
    ours = (FineTunedEmbeddings.__module__, FineTunedEmbeddings.__qualname__)
    if holder is not None and (holder.__module__, holder.__qualname__) != ours:
        raise AliasTakenError(ALIAS, holder=f"{holder.__module__}.{holder.__qualname__}")
    # A class of our own name is this module before a reload.
    registry.register(ALIAS)(FineTunedEmbeddings)


def store_for(
    table: Table,
    store: str | None = None,
    *,
    of: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> str:
    """Return the model store that a step on a table uses.

    That which is named. Of a model that the table has: the registry variable ``ft_store``,
    ``LANCEDB_FT_STORE``, the store that the table's function recorded; where that folder is gone,
    as in a database that moved with its models, the database's own. Of any other: the first of
    `stores_of_database` that is there.

    Parameters
    ----------
    table
        Whose database it is.
    store
        The argument of the step.
    of
        The entry of the function whose own model is wanted.
    beside
        The entry of the function that the table has, where another model is wanted.
    """
    if store:
        return str(store)
    default = default_store_uri(database_uri(table))
    recorded = _recorded(of)
    if recorded is not None:
        named = _store_now(None)
        return str(named) if named else default if _is_gone(recorded) else recorded
    places = stores_of_database(table, beside)
    return next((place for place in places if not _is_gone(place)), default)


def stores_of_database(table: Table, beside: Mapping[str, Any] | None = None) -> list[str]:
    """Return where a model may be that a table is to have: where `train` saves it comes first.

    ``ft_models`` inside the database, the registry variable ``ft_store`` or ``LANCEDB_FT_STORE``,
    and the store of the function that the table has.
    """
    places = [default_store_uri(database_uri(table)), _store_now(None), _recorded(beside)]
    return [str(place) for place in places if place]


def _recorded(entry: Mapping[str, Any] | None) -> str | None:
    """Return the store that an entry of ours names."""
    if entry is None or entry["name"] != ALIAS:
        return None
    store = (entry.get("model") or {}).get("store")
    return None if store is None else _store_now(store)


def _is_gone(place: str) -> bool:
    """Say whether a local folder is not there; of what is far away nothing is asked."""
    return "://" not in place and not os.path.isdir(os.path.expanduser(place))


def _store_now(store: str | None) -> str | None:
    """Return the store to use in this process.

    A place is used as it is. A variable, or nothing at all, gives what the registry has for it,
    then (for ``ft_store``) the environment variable, then the variable's default.
    """
    if store is not None and not store.startswith("$var:"):
        return store
    variable, _, default = (store or f"$var:{STORE_VARIABLE}").removeprefix("$var:").partition(":")
    try:
        return str(get_registry().get_var(variable))
    except KeyError:
        found = os.environ.get(STORE_ENVIRONMENT) if variable == STORE_VARIABLE else None
        return found or default or None


def _as_variable(store: str | None, place: str | None) -> str | None:
    """Return how the store is written into a table."""
    if store is not None and store.startswith("$var:"):
        return store
    if place is None:
        return None
    absolute = place if "://" in place else os.path.abspath(os.path.expanduser(place))
    return f"$var:{STORE_VARIABLE}:{absolute}"


def _checked_dims(dims: int | None, model: ModelVersion | ResolvedModel) -> int:
    if dims is None:
        return model.dims
    if not 1 <= dims <= model.dims:
        raise InputError(
            f"dims is {dims}; {model.ref} has {model.dims} dimensions, and dims must be from 1 to "
            f"{model.dims}."
        )
    return dims
