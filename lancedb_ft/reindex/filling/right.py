"""Which fragments were found right, so that the next run does not read them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.reindex.filling.fragments import Columns, signature

if TYPE_CHECKING:
    from lancedb_ft.generation import Generation

__all__ = ["RightFragments"]


class RightFragments:
    """Fragments that are known to be right, by what their files are called.

    Lance never writes a file twice, and gives each a random name: as long as a fragment has the
    same files for the same columns, it has the same texts and vectors. Rows deleted from it do not
    matter. So this may be as old as it likes, or missing; `verify` reads everything in any case.

    Parameters
    ----------
    path
        Where it is kept between runs; None: nowhere.
    generation
        Whose model and columns are meant; a file about others counts as missing.
    """

    def __init__(self, path: Path | None, generation: Generation) -> None:
        self._path = path
        self._of = f"{generation.fingerprint}/{Columns.of(generation).names}"
        self._known: dict[int, str] = self._read()
        self._saved = dict(self._known)

    def _read(self) -> dict[int, str]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_text("utf-8"))
            return {int(n): str(s) for n, s in found["right"].items() if found["of"] == self._of}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # not there, or torn

    def has(self, fragment: Any) -> bool:
        """Say whether a fragment is known to be right as it is."""
        return self._known.get(fragment.fragment_id) == _short(fragment)

    def add(self, fragment: Any) -> None:
        """Note that a fragment is right."""
        self._known[fragment.fragment_id] = _short(fragment)

    def keep(self, numbers: Iterable[int]) -> None:
        """Forget all fragments but these."""
        there = set(numbers)
        self._known = {n: s for n, s in self._known.items() if n in there}

    def save(self) -> None:
        """Write down what is known."""
        if self._path is None or self._known == self._saved:
            return
        partial = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk: the next run reads more, that is all
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"of": self._of, "right": self._known}), "utf-8")
            os.replace(partial, self._path)
            self._saved = dict(self._known)


def _short(fragment: Any) -> str:
    return hashlib.sha256(signature(fragment).encode()).hexdigest()[:32]
