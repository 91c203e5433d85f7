"""The model under a query-only version: the one to go on from where weights are read or changed."""

from __future__ import annotations

from lancedb_ft.errors import InputError
from lancedb_ft.store import ModelStore, ResolvedModel

__all__ = ["refuse_query_only"]


def refuse_query_only(found: ResolvedModel, what: str) -> None:
    """Refuse a version with a query adapter where it would be ignored, and dropped.

    An adapter is for the vectors of the very weights it was trained with.

    Parameters
    ----------
    found
        The model that was named.
    what
        The argument that names it.

    Raises
    ------
    InputError
        It has one. The error names the version under it, whose documents it has.
    """
    if found.document_fingerprint == found.fingerprint:
        return
    raise InputError(
        f"{what} is {found.ref!r}, a query-only version: its query adapter belongs to the weights "
        f"as they are, and would be dropped here. Name the model under it, {_under(found)}, and "
        "train queries alone (query_only, --query-only) on the result where that is still of use."
    )


def _under(found: ResolvedModel) -> str:
    if found.store is not None:
        for step in ModelStore(found.store).lineage(found.ref):
            if step.get("fingerprint") == found.document_fingerprint:
                return repr(step["ref"])
    return f"that of the fingerprint {found.document_fingerprint[:12]}"
