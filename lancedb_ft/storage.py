"""How this process reaches object stores: options by URI, in memory and nowhere else.

A connection of LanceDB carries its ``storage_options``, and a table's metadata must not: they hold
secrets. So what is reached by a URI alone (a model store that a table's metadata names, a database
of the command line) finds its options here. Whatever is not here comes from the environment
(``AWS_ACCESS_KEY_ID`` and its like), as LanceDB and Lance read it themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lancedb_ft.errors import InputError

__all__ = ["parse_storage_options", "storage_options_for", "use_storage_options"]

_OPTIONS: dict[str, dict[str, str]] = {}


def use_storage_options(uri: str, options: Mapping[str, str] | None) -> None:
    """Use these options in this process for everything at or below a URI.

    Only a program that passes ``storage_options`` to ``lancedb.connect`` and searches with text
    needs this, for the model store: with credentials in the environment nothing is to be done,
    and lancedb-ft's own verbs take the options from the table they are given.

    Parameters
    ----------
    uri
        ``s3://bucket``, or a place in it. The longest URI that fits is used.
    options
        LanceDB's keys: ``aws_access_key_id``, ``region``, ``endpoint``, ... None forgets them.

    Examples
    --------
    >>> use_storage_options("s3://kb", {"region": "eu-west-1"})
    >>> storage_options_for("s3://kb/ft_models")
    {'region': 'eu-west-1'}
    >>> use_storage_options("s3://kb", None)
    """
    if options is None:
        _OPTIONS.pop(uri.rstrip("/"), None)
    else:
        _OPTIONS[uri.rstrip("/")] = {str(key): str(value) for key, value in options.items()}


def storage_options_for(uri: str) -> dict[str, str] | None:
    """Return the options that were given for a URI or a place above it, or None."""
    place = uri.rstrip("/")
    fitting = [known for known in _OPTIONS if place == known or place.startswith(known + "/")]
    return dict(_OPTIONS[max(fitting, key=len)]) if fitting else None


def parse_storage_options(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``key=value`` texts, as the command line takes them.

    Raises
    ------
    InputError
        One is not of that form. The error repeats no value: it may be a secret.

    Examples
    --------
    >>> parse_storage_options(["region=eu-west-1", "allow_http=true"])
    {'region': 'eu-west-1', 'allow_http': 'true'}
    """
    found = {}
    for number, pair in enumerate(pairs, start=1):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"--storage-option number {number} has no key and value: write KEY=VALUE, as in "
                "region=eu-west-1. Secrets are better in the environment (AWS_SECRET_ACCESS_KEY), "
                "where other users of the machine do not see them."
            )
        found[key.strip()] = value
    return found
