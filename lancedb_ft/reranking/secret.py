"""Keys of services: where they stand is passed around, they themselves are not."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from lancedb_ft.errors import InputError

__all__ = ["Secret", "checked_url"]

_VARIABLE = "$var:"
_NAME = re.compile(r"^[A-Za-z_][\w.-]{0,79}$")


@dataclass(frozen=True)
class Secret:
    """Where a key is found when it is needed. Holds no key, so it may be shown and pickled.

    Parameters
    ----------
    variable
        A variable of LanceDB's embedding registry, ``get_registry().set_var(name, key)``; empty for
        the environment.
    environment
        Names of environment variables; the first that is set counts.
    """

    variable: str
    environment: tuple[str, ...]

    @classmethod
    def of(cls, api_key: str | None, *environment: str) -> Secret:
        """Return where the key stands that a user named.

        Raises
        ------
        InputError
            It is the key itself, or no name of a variable. The error does not repeat it.
        """
        if api_key is None:
            return cls("", environment)
        name = api_key.removeprefix(_VARIABLE) if isinstance(api_key, str) else ""
        if not str(api_key).startswith(_VARIABLE) or not _NAME.fullmatch(name):
            raise InputError(
                "api_key does not name a variable. A key must not stand in a program, a table or a "
                f"log: set the environment variable {environment[0]} and leave api_key out, or "
                'call get_registry().set_var("my_key", key) and pass api_key="$var:my_key".'
            )
        return cls(name, environment)

    def value(self) -> str:
        """Return the key, ``""`` where there is none."""
        if not self.variable:
            return next((os.environ[n] for n in self.environment if os.environ.get(n)), "")
        from lancedb.embeddings import get_registry

        try:
            return str(get_registry().get_var(self.variable))
        except KeyError:
            return ""

    def required(self) -> str:
        """Return the key.

        Raises
        ------
        InputError
            There is none.
        """
        if key := self.value():
            return key
        where = (
            f"The variable {self.variable!r} of LanceDB's embedding registry is not set. Call "
            f"get_registry().set_var({self.variable!r}, key)."
            if self.variable
            else f"The environment variable {self.environment[0]} is not set. Set it to the key."
        )
        raise InputError(where)


def checked_url(url: str, *, sends_key: bool) -> str:
    """Return the address of a service.

    Raises
    ------
    InputError
        It is no address, holds a key itself, or would have the key sent over a network in the
        clear. The error does not repeat it.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        host = parts.hostname or ""
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), ""
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("base_url is not an address such as 'https://host/path'.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "base_url holds a user name, a password or a query, where keys would be shown in logs. "
            "Pass scheme, host and path alone."
        )
    if sends_key and parts.scheme == "http" and not _is_here(host):
        raise InputError(
            f"base_url is 'http://{host}...', and the key would go over the network unencrypted. "
            "Use https, or unset the key if the service needs none."
        )
    return url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
