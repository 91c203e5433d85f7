"""What a version is called, and where a database keeps its models."""

from __future__ import annotations

import re

from lancedb_ft.errors import InputError

__all__ = ["STORE_FOLDER", "default_store_uri", "parse_reference"]

#: The folder inside a LanceDB database that is its own store.
STORE_FOLDER = "ft_models"
#: What a model may be called.
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_VERSION = re.compile(r"^[1-9][0-9]{0,8}$")


def default_store_uri(database_uri: str) -> str:
    """Return the place of a database's own store: the folder ``ft_models`` inside it.

    Raises
    ------
    InputError
        The database has no folder: LanceDB Cloud (``db://``) or in memory.

    Examples
    --------
    >>> default_store_uri("s3://bucket/kb")
    's3://bucket/kb/ft_models'
    """
    scheme = database_uri.partition("://")[0] if "://" in database_uri else ""
    if scheme in ("db", "memory"):
        raise InputError(
            f"The database {database_uri!r} has no folder to keep models in. Name a store: "
            "store='/a/folder' or store='s3://bucket/models' (--store URI)."
        )
    return f"{database_uri.rstrip('/')}/{STORE_FOLDER}"


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Split ``name@version``, or ``name`` alone, which means the latest version.

    Raises
    ------
    InputError
        It is neither.

    Examples
    --------
    >>> parse_reference("support@3"), parse_reference("support")
    (('support', 3), ('support', None))
    """
    name, at, version = reference.partition("@")
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a model name: letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit, 100 at most."
        )
    if not at:
        return name, None
    if not _VERSION.fullmatch(version):
        raise InputError(f"{reference!r}: the version after '@' must be a number, as in {name}@3.")
    return name, int(version)
