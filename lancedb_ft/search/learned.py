"""What was learned about answering queries of a table: a fusion, and when to use which mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lancedb_ft.errors import InputError
from lancedb_ft.search.auto import AutoMode
from lancedb_ft.search.fusion import Fusion

__all__ = ["LearnedRanking"]

_FORMAT = 1


@dataclass(frozen=True)
class LearnedRanking:
    """A learned fusion and a learned choice of the mode, with the evidence for both.

    `fit_fusion` and `fit_auto` return one. It stands with the model version that the table
    searches with, where ``search(fusion="learned")`` and ``mode="auto"`` find it, or in a file of
    its own, and is then passed as ``fusion=LearnedRanking.load(path)``.

    Parameters
    ----------
    fusion
        How hybrid queries are fused; None for reciprocal rank fusion.
    auto
        Which mode a query gets with ``mode="auto"``; None where nothing was shown to win.
    evidence
        ``{"fusion": {...}, "auto": {...}}``: figures with intervals, n, table and version.
    """

    fusion: Fusion | None = None
    auto: AutoMode | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> str:
        """Return it as the text of a JSON file."""
        document = {
            "format": _FORMAT,
            "fusion": None if self.fusion is None else asdict(self.fusion),
            "auto": None if self.auto is None else self.auto.to_dict(),
            "evidence": dict(self.evidence),
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "ranking") -> LearnedRanking:
        """Read what `to_json` wrote.

        Raises
        ------
        InputError
            The text is torn, of a newer lancedb-ft, or something else.
        """
        try:
            document = json.loads(text)
            if document["format"] != _FORMAT:
                raise InputError(
                    f"{where} has format {document['format']}, and this version of lancedb-ft "
                    f"reads format {_FORMAT}. Fit it again, or use the version that wrote it."
                )
            fusion, auto = document["fusion"], document["auto"]
            return cls(
                fusion=None if fusion is None else Fusion(**fusion),
                auto=None if auto is None else AutoMode.from_dict(auto),
                evidence=document["evidence"],
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{where} is not a learned ranking: {error!r}. Fit it again."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> LearnedRanking:
        """Read a JSON file that `save` wrote.

        Raises
        ------
        InputError
            There is no such file, or it holds something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The learned ranking {str(path)!r} cannot be read: {error}"
            ) from error
        return cls.from_json(text, where=str(path))
