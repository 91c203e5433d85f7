"""Read the header of a safetensors file, without torch and without reading the tensors.

The format is 8 bytes (little-endian length n), n bytes of JSON ``{name: {dtype, shape,
data_offsets}}``, then the tensors: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_header", "tensor_shapes"]

#: The limit of the reference implementation.
_MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, Any]:
    """Return ``{tensor: {"dtype", "shape", "data_offsets"}}``.

    Raises
    ------
    ValueError
        The file is not safetensors, or is cut short.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(_MAX_HEADER_BYTES, n_bytes - 8):
            raise ValueError("it is not a safetensors file, or is cut short")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError("its safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its safetensors header is not an object")
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it holds no tensors")
    _check_extent(header, n_bytes - 8 - length)
    return header


def _check_extent(header: dict[str, Any], n_bytes: int) -> None:
    try:
        end = max(int(tensor["data_offsets"][1]) for tensor in header.values())
        shapes_are_numbers = all(
            isinstance(size, int) for tensor in header.values() for size in tensor["shape"]
        )
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError("its safetensors header describes no tensors") from error
    if end != n_bytes or not shapes_are_numbers:
        raise ValueError(f"it should hold {end} bytes of tensors and holds {n_bytes}")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return ``{tensor: shape}`` of one safetensors file."""
    return {name: tuple(tensor["shape"]) for name, tensor in read_header(path).items()}
