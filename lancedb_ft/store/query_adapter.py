"""The query adapter: a small map for query vectors, beside a model whose documents stay.

::

    query_adapter.json          {"kind": "linear", "dims": 384}
    query_adapter.safetensors   weight (384, 384), bias (384,)

Both stand at the root of a model folder, and sentence-transformers reads neither: loaded by itself,
such a folder is the base model, whose documents are the very same and whose queries are the base's.
(Its Router module could express two ways in one model. But a Router imports the class names that
its own config lists, which is why `trust` refuses it, and its folder of two sub-models is another
layout than that of the base, so that the documents' side would no longer have the base's files.)

The fingerprint of a model covers its adapter. Its *document fingerprint* does not: two models with
the same one make the same vectors of documents, and a table can go from one to the other without
encoding a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.arguments import is_whole
from lancedb_ft.errors import InputError
from lancedb_ft.store.safetensors_header import read_header

__all__ = [
    "ADAPTER_FILES",
    "CONFIG",
    "KINDS",
    "WEIGHTS",
    "QueryAdapter",
    "adapter_shapes",
    "check_adapter_config",
    "check_adapter_weights",
    "read_adapter",
    "write_adapter",
]

#: The names of the two files.
CONFIG, WEIGHTS = "query_adapter.json", "query_adapter.safetensors"
ADAPTER_FILES = (CONFIG, WEIGHTS)

#: What an adapter may be, and which numbers its config has beside its kind. With a query vector x,
#: f(x) is ``weight x + bias`` (linear) or ``up (down x) + bias`` (low-rank); the adapted vector
#: points where ``x + f(x)`` does, and is as long as x.
KINDS: Mapping[str, tuple[str, ...]] = {"linear": ("dims",), "low-rank": ("dims", "rank")}

_MAX_DIMS = 65_536


@dataclass(frozen=True)
class QueryAdapter:
    """The adapter of one model.

    Parameters
    ----------
    kind
        A key of `KINDS`.
    tensors
        float32 arrays by name, of exactly the shapes that `adapter_shapes` tells.

    Raises
    ------
    InputError
        The tensors are not those of the kind, or hold NaN or infinity.

    Examples
    --------
    >>> zero = {"weight": np.zeros((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    >>> QueryAdapter("linear", zero).to_config()
    {'kind': 'linear', 'dims': 2}
    """

    kind: str
    tensors: Mapping[str, npt.NDArray[np.float32]]

    def __post_init__(self) -> None:
        """Reject what could not be read back."""
        bias = self.tensors.get("bias")
        if bias is None or bias.ndim != 1:
            raise InputError("A query adapter needs a 'bias' of shape (dims,).")
        if reason := check_adapter_config(self.to_config()):
            raise InputError(f"A query adapter cannot be this: {reason}.")
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        if shapes != (wanted := adapter_shapes(self.to_config())):
            raise InputError(f"A {self.kind} query adapter has the shapes {wanted}, not {shapes}.")
        if not all(np.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise InputError("The query adapter holds NaN or infinity.")

    @property
    def dims(self) -> int:
        """Length of the vectors it is for: those of the model before any truncation."""
        return len(self.tensors["bias"])

    @property
    def rank(self) -> int | None:
        """Of a low-rank adapter."""
        return len(self.tensors["down"]) if self.kind == "low-rank" else None

    def to_config(self) -> dict[str, Any]:
        """Return the content of ``query_adapter.json``."""
        numbers = {"dims": self.dims, "rank": self.rank if "down" in self.tensors else None}
        return {"kind": self.kind, **{k: v for k, v in numbers.items() if v is not None}}


def adapter_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of each tensor, from a config that was checked."""
    dims, rank = config["dims"], config.get("rank")
    matrices = (
        {"weight": (dims, dims)}
        if config["kind"] == "linear"
        else {"down": (rank, dims), "up": (dims, rank)}
    )
    return {**matrices, "bias": (dims,)}


def check_adapter_config(document: Mapping[str, Any]) -> str | None:
    """Say why a ``query_adapter.json`` is refused, or None."""
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return f"'kind' is {kind!r}, not one of {', '.join(KINDS)}"
    wanted = {"kind", *KINDS[kind]}
    if set(document) != wanted:
        return f"its keys are {sorted(map(str, document))}, and must be {sorted(wanted)}"
    for name in KINDS[kind]:
        number = document[name]
        if not is_whole(number, 1, _MAX_DIMS):
            return f"{name!r} is {number!r}, not a number of dimensions"
    return None


def check_adapter_weights(file: Path, config: Mapping[str, Any]) -> str | None:
    """Say why a ``query_adapter.safetensors`` does not go with its config, or None."""
    try:
        header = read_header(file)
    except ValueError as error:
        return str(error)
    found = {name: tuple(tensor["shape"]) for name, tensor in header.items()}
    if found != (wanted := adapter_shapes(config)):
        return f"its tensors are {found}, and must be {wanted}"
    strange = {str(tensor.get("dtype")) for tensor in header.values()} - {"F32"}
    return f"it holds {', '.join(sorted(strange))}, and must hold F32" if strange else None


def read_adapter(folder: str | Path) -> QueryAdapter | None:
    """Return the adapter of a model folder that passed `check_folder`, or None if it has none.

    Raises
    ------
    InputError
        It holds NaN or infinity.
    """
    import json

    from safetensors.numpy import load_file

    root = Path(folder)
    if not (root / CONFIG).is_file():
        return None
    config = json.loads((root / CONFIG).read_text("utf-8"))
    return QueryAdapter(config["kind"], load_file(str(root / WEIGHTS)))


def write_adapter(adapter: QueryAdapter, folder: Path) -> None:
    """Write the two files into a folder, in place of those that stand there."""
    import json

    from safetensors.numpy import save_file

    for name in ADAPTER_FILES:
        (folder / name).unlink(missing_ok=True)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in adapter.tensors.items()}
    save_file(tensors, str(folder / WEIGHTS))
    (folder / CONFIG).write_text(json.dumps(adapter.to_config()) + "\n", encoding="utf-8")
