"""`ServiceReranker`: what the rerankers share whose model runs at somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from lancedb_ft.errors import InputError, MissingExtraError
from lancedb_ft.reranking.base import Reading, TextReranker, check_count
from lancedb_ft.reranking.guard import Deadline, RerankGuard
from lancedb_ft.reranking.remote import Service, event_loop
from lancedb_ft.reranking.secret import Secret, checked_url

__all__ = ["ServiceReranker", "require_package"]


def require_package(package: str, *, extra: str, purpose: str) -> Any:
    """Import the package of a service's client.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, extra=extra, purpose=purpose) from error


@dataclass(frozen=True)
class _Running:
    """A client, and what it was made for."""

    loop: asyncio.AbstractEventLoop
    key: str = field(repr=False)
    client: Any


class ServiceReranker(TextReranker):
    """A reranker behind HTTP; a subclass makes the client and asks it.

    Parameters
    ----------
    model
        The service's name of the model.
    base_url
        Address of the service.
    secret
        Where the key stands.
    needs_key
        Refuse to be made without one.
    max_chars
        Cut longer texts before they are sent.

    Raises
    ------
    InputError
        There is no key where one is needed, it would be sent unencrypted, or another argument
        cannot be used.
    """

    _live: ClassVar[tuple[str, ...]] = (*TextReranker._live, "_running", "_lock")

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        secret: Secret,
        needs_key: bool,
        max_chars: int,
        column: str,
        top_k: int | None,
        return_score: str,
        guard: RerankGuard | None,
    ) -> None:
        super().__init__(
            column=column, top_k=top_k, return_score=return_score, guard=guard or RerankGuard()
        )
        if not isinstance(model, str) or not model.strip():
            raise InputError(f"model is {model!r}; it must be the service's name of a model.")
        check_count("max_chars", max_chars)
        self.model = model
        key = secret.required() if needs_key else secret.value()
        self.base_url = checked_url(base_url, sends_key=bool(key))
        self.secret = secret
        self.max_chars = max_chars

    def _start(self) -> None:
        super()._start()
        self._running: _Running | None = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        """Say which model it is; shown in LanceDB's query plans."""
        return f"{type(self).__name__}({self.model})"

    # --- to be written by a subclass -------------------------------------------------------

    @abstractmethod
    def make_client(self, key: str) -> tuple[Any, Callable[[], Awaitable[None]]]:
        """Return an asynchronous client that retries nothing, and what closes it."""

    # --- asking ----------------------------------------------------------------------------

    def guarded(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Make the client before the clock starts; then as for every reranker."""
        self.client()
        return super().guarded(query, texts, deadline)

    def client(self) -> Any:
        """Return the client of this process, made anew where the key is another one by now."""
        loop, key = event_loop(), self.secret.value()
        with self._lock:
            running = self._running
            if running is None or running.loop is not loop or running.key != key:
                client, close = self.make_client(key)
                weakref.finalize(self, _close_in, loop, close).atexit = False
                self._running = running = _Running(loop, key, client)
            return running.client

    def service(self) -> Service:
        """Return how the service is asked."""
        return Service(str(self), self.guard, self._counters, self.secret.value())

    def cut(self, text: str) -> str:
        """Return what of a text is sent: its beginning, up to the last space before the limit."""
        if len(text) <= self.max_chars:
            return text
        kept = text[: self.max_chars]
        words = kept.rpartition(" ")[0]
        return words if len(words) > self.max_chars // 2 else kept


def _close_in(loop: asyncio.AbstractEventLoop, close: Callable[[], Awaitable[None]]) -> None:
    """Have a client closed in its own loop; nobody waits for it."""

    async def closing() -> None:
        with contextlib.suppress(Exception):
            await close()

    if loop.is_running():
        asyncio.run_coroutine_threadsafe(closing(), loop)
