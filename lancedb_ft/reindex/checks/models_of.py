"""The model of any generation, ours or not, as something that embeds documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.embedding import store_for
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.reindex.target import encoder_of
from lancedb_ft.table import FUNCTIONS_KEY

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.generation import Generation
    from lancedb_ft.types import Progress

__all__ = ["Embeds", "model_of"]


class Embeds(Protocol):
    """Makes vectors of documents; an `Encoder` does."""

    def encode(
        self, texts: Any, *, kind: Any = "document", progress: Progress | None = None
    ) -> pa.FixedSizeListArray:
        """Return one float32 vector a text; null for a blank one."""
        ...


def model_of(
    table: Table,
    generation: Generation,
    *,
    store: str | None = None,
    device: str | None = None,
    base_model: str | None = None,
) -> Embeds:
    """Return what makes a generation's vectors.

    Parameters
    ----------
    table, generation
        Whose vectors.
    store, device
        Where our models are, and run.
    base_model
        The model of a raw column.

    Raises
    ------
    InputError
        Nobody says which model it is, or its function is not registered in this process.
    StoreError
        The model is gone.
    """
    if generation.fingerprint is not None:
        return encoder_of(table, generation, store=store, device=device)
    if generation.function is not None:
        return _Registered(generation)
    if base_model is None:
        raise InputError(
            f"Nothing says which model made column {generation.column!r} of table "
            f"{table.name!r}: name it with base_model= (--base-model)."
        )
    return get_encoder(
        base_model,
        store=store_for(table, store),
        device=device,
        dims=generation.dims,
    )


class _Registered:
    """A function of LanceDB's registry, made from what the table says of it."""

    def __init__(self, generation: Generation) -> None:
        from lancedb.embeddings import get_registry

        entry: dict[str, Any] = dict(generation.function or {})
        try:
            parsed = get_registry().parse_functions(
                {FUNCTIONS_KEY.encode(): json.dumps([entry]).encode()}
            )
        except KeyError as error:
            raise InputError(
                f"The embedding function {entry['name']!r} of column {generation.column!r} is not "
                "registered in this process: import the module that registers it, and call again."
            ) from error
        self._function = next(iter(parsed.values())).function
        self._dims = generation.dims
        self._name = str(entry["name"])

    def encode(
        self, texts: Any, *, kind: Any = "document", progress: Progress | None = None
    ) -> pa.FixedSizeListArray:
        """Embed the texts that are not blank.

        Raises
        ------
        StoreError
            The function gave something else than one finite vector of the right length a text.
        """
        given = texts.to_pylist()
        places = [n for n, text in enumerate(given) if text is not None and text.strip()]
        asked = [given[n] for n in places]
        made = self._function.compute_source_embeddings_with_retry(asked) if asked else []
        matrix = np.zeros((len(given), self._dims), np.float32)
        matrix[places] = self._checked(list(made), len(asked))
        blank = np.ones(len(given), dtype=bool)
        blank[places] = False
        if progress is not None:
            progress(len(given), len(given))
        return pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.reshape(-1)), self._dims, mask=pa.array(blank)
        )

    def _checked(self, made: list[Any], n_texts: int) -> npt.NDArray[np.float32]:
        """Return the vectors as a matrix; what is none would be found by nothing, for ever."""
        fit = [vector for vector in made if np.shape(vector) == (self._dims,)]
        if len(fit) == len(made) == n_texts:
            with np.errstate(over="ignore"):
                matrix = np.asarray(fit).astype(np.float32).reshape(n_texts, self._dims)
            if np.isfinite(matrix).all():
                return matrix
        lengths = sorted({"none" if v is None else str(np.shape(v)) for v in made})
        raise StoreError(
            f"The embedding function {self._name!r} must give {n_texts} vectors of {self._dims} "
            f"finite numbers, one a text, and gave {len(made)} (shapes: {', '.join(lengths[:5])}), "
            "or numbers that are NaN or infinite. None of them was written: mend the function, and "
            "call again."
        )
