"""Read a large JSON document value by value, without ever holding all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["JsonStream"]

_CHUNK = 1 << 20
_SPACE = " \t\n\r"
_IN_NUMBERS = "0123456789.eE+-"


class JsonStream:
    """The values of one JSON document, in their order.

    Only the value that is being read is in memory. What is no JSON, and a document that ends
    early, raise ValueError.

    Parameters
    ----------
    text
        The document, from its beginning.

    Examples
    --------
    >>> import io
    >>> stream = JsonStream(io.StringIO('{"a": [2, 3], "b": {"x": 1}}'))
    >>> for key in stream.each_key():
    ...     print(key, list(stream.each_value() if key == "a" else stream.each_item()))
    a [2, 3]
    b [('x', 1)]
    """

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._buffer = ""
        self._position = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            while self._position < len(self._buffer):
                character = self._buffer[self._position]
                if character not in _SPACE:
                    return character
                self._position += 1
            if not self._more(_CHUNK):
                return ""

    def value(self) -> Any:
        """Return the next value, whatever it is."""
        if not self.peek():
            raise ValueError("it ends where a value should follow")
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except ValueError:
                if not self._more(size):
                    raise
            except RecursionError as error:
                raise ValueError("a value is nested too deeply") from error
            else:
                # "12" and "1." at the end of what is read so far may be the beginning of "12.5".
                rest = self._buffer[end : end + 1]
                if (rest and rest not in _IN_NUMBERS) or not self._more(size):
                    self._position = end
                    return value
            size *= 2  # a value of n characters is tried log(n) times, not n

    def each_key(self) -> Iterator[str]:
        """Yield the keys of the object that follows; read each value before the next key."""
        self._take("{")
        if self.peek() == "}":
            self._position += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key is not text")
            self._take(":")
            yield key
            if not self._goes_on("}"):
                return

    def each_item(self) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of the object that follows."""
        for key in self.each_key():
            yield key, self.value()

    def each_value(self) -> Iterator[Any]:
        """Yield the values of the array that follows."""
        self._take("[")
        if self.peek() == "]":
            self._position += 1
            return
        while True:
            yield self.value()
            if not self._goes_on("]"):
                return

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise ValueError("something follows after the end")

    def _goes_on(self, end: str) -> bool:
        if self.peek() == end:
            self._position += 1
            return False
        self._take(",")
        return True

    def _take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            told = repr(found) if found else "the end"
            raise ValueError(f"found {told} where {expected!r} should be")
        self._position += 1

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        read = self._text.read(size)
        self._ended = not read
        self._buffer = self._buffer[self._position :] + read
        self._position = 0
        return bool(read)
