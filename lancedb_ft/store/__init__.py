"""The store: named, numbered, immutable versions of models, and what may be loaded at all.

``ModelStore`` keeps versions in a folder or an object store; ``resolve_model`` turns whatever names
a model into a checked folder on this machine; ``check_folder`` is the boundary between data and
code; ``fingerprint_folder`` says whether two folders make the same vectors. Nothing here imports
torch, except that saving a live model uses the library it came from.
"""

from lancedb_ft.store.fingerprint import fingerprint_folder
from lancedb_ft.store.reference import default_store_uri
from lancedb_ft.store.resolve import ResolvedModel, resolve_model
from lancedb_ft.store.trust import check_folder
from lancedb_ft.store.versions import ModelStore

__all__ = [
    "ModelStore",
    "ResolvedModel",
    "check_folder",
    "default_store_uri",
    "fingerprint_folder",
    "resolve_model",
]
