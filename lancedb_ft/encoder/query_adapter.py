"""Running a query adapter: the same few lines in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lancedb_ft.store.query_adapter import QueryAdapter

__all__ = ["adapted", "adapter_tensors"]


def adapter_tensors(
    adapter: QueryAdapter, *, device: str | torch.device
) -> dict[str, torch.Tensor]:
    """Return an adapter's arrays as float32 tensors on a device."""
    import torch

    return {name: torch.tensor(array, device=device) for name, array in adapter.tensors.items()}


def adapted(vectors: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Turn query vectors: each points where ``x + f(x)`` does, and is as long as ``x`` was.

    The length stays, so that distances after the adapter mean what they meant before, whether the
    model normalises or not.

    Parameters
    ----------
    vectors
        float32, shape (n, dims), of the model before any truncation.
    tensors
        Of the adapter, see `lancedb_ft.store.query_adapter.KINDS`.
    """
    import torch

    if "weight" in tensors:
        change = vectors @ tensors["weight"].T
    else:
        change = (vectors @ tensors["down"].T) @ tensors["up"].T
    turned = torch.nn.functional.normalize(vectors + change + tensors["bias"], dim=1)
    found: torch.Tensor = turned * torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return found
