"""What an engine is, and the one that needs nothing but this process."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lancedb_ft.encoder.pool import EncoderPool, default_processes
from lancedb_ft.errors import InputError
from lancedb_ft.reindex.filling.backfill import Backfill, FillReport

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.filling.right import RightFragments
    from lancedb_ft.reindex.filling.spill import Spill
    from lancedb_ft.reindex.filling.vector_cache import VectorCache
    from lancedb_ft.types import Progress

__all__ = ["Engine", "FillWork", "Filler", "LocalEngine", "backfill_of", "engine_of"]


@dataclass(frozen=True)
class FillWork:
    """What is to be filled, and with what; see `Backfill`.

    ``device`` is the one that the user asked for, None for the best that is there.
    """

    table: Table
    generation: Generation
    encoder: Encoder
    spill: Spill
    progress: Progress | None = None
    cache: VectorCache | None = None
    donors: tuple[Generation, ...] = ()
    right: RightFragments | None = None
    device: str | None = None


class Filler(Protocol):
    """Fills one generation of one table; run again, it looks only at what changed since."""

    def run(self, only: Collection[int] | None = None) -> FillReport:
        """Fill until a whole pass finds nothing to do; ``only`` names the fragments to look at."""
        ...


class Engine(Protocol):
    """Makes the filler of a generation."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        ...

    def filler(self, work: FillWork) -> Filler:
        """Return what fills the generation; nothing is done before its `Filler.run`."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """One fragment after the other, on this machine.

    Parameters
    ----------
    processes
        In how many processes to encode; on several GPUs each has its own. None: one for each GPU,
        else one.

    Raises
    ------
    InputError
        ``processes`` is below 1.
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.processes is not None and self.processes < 1:
            raise InputError(f"processes is {self.processes}; at least 1 is needed.")

    @property
    def name(self) -> str:
        """``local``."""
        return "local"

    def filler(self, work: FillWork) -> Filler:
        """Return a `Backfill`."""
        n_processes = self.processes or default_processes(work.encoder)
        pool = EncoderPool(work.encoder, n_processes) if n_processes > 1 else None
        return backfill_of(work, pool)


def backfill_of(work: FillWork, pool: EncoderPool | None = None) -> Backfill:
    """Return what fills in this process, or encodes in the processes of a pool."""
    return Backfill(
        work.table,
        work.generation,
        work.encoder,
        work.spill,
        work.progress,
        cache=work.cache,
        donors=work.donors,
        right=work.right,
        pool=pool,
    )


def engine_of(engine: str | Engine) -> Engine:
    """Return the engine of a name, with its defaults; an engine is returned as it is.

    Raises
    ------
    InputError
        There is none of that name, or it is something else.
    """
    if not isinstance(engine, str):
        if not callable(getattr(engine, "filler", None)):
            raise InputError(
                f"engine is {engine!r:.80}; it must be {' or '.join(map(repr, _ENGINES))}, or an "
                "engine with its options, such as RayEngine(...)."
            )
        return engine
    if engine not in _ENGINES:
        raise InputError(f"There is no engine {engine!r}; there are {', '.join(_ENGINES)}.")
    return _ENGINES[engine]()


def _ray_engine() -> Engine:
    from lancedb_ft.reindex.engines.ray_engine import RayEngine

    return RayEngine()


_ENGINES: dict[str, Callable[[], Engine]] = {"local": LocalEngine, "ray": _ray_engine}
