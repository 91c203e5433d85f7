"""``--engine`` and what belongs to it."""

from __future__ import annotations

from typing import Annotated

import typer

from lancedb_ft.errors import InputError
from lancedb_ft.reindex.engines import Engine, LocalEngine, RayEngine, engine_of

__all__ = [
    "Backend",
    "Cache",
    "EngineName",
    "Processes",
    "RayAddress",
    "RayGpus",
    "RayWorkers",
    "read_engine",
]

EngineName = Annotated[str, typer.Option("--engine", help="Where rows are encoded: local or ray.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster, as auto or ray://head:10001 [default: this machine]."
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Ray processes [default: what the cluster has room for]"),
]
RayGpus = Annotated[
    float | None,
    typer.Option("--num-gpus", min=0, help="GPUs a Ray process [default: 1 where there are any]."),
]


Processes = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, help="Encode in so many processes here [default: 1, or one a GPU]."
    ),
]
Backend = Annotated[str, typer.Option("--backend", help="What runs the model: torch or openvino.")]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        help="Table that keeps vectors by text: its name here, or a database's URI (with a slash).",
    ),
]


def read_engine(
    name: str,
    address: str | None,
    workers: int | None,
    num_gpus: float | None,
    processes: int | None = None,
) -> Engine:
    """Return the engine that is asked for.

    Raises
    ------
    InputError
        There is none of that name, or options of Ray were given for another one.
    """
    if name == "ray":
        if processes is not None:
            raise InputError("--processes is for --engine local; with ray it is --workers.")
        return RayEngine(address=address, workers=workers, num_gpus=num_gpus)
    if (address, workers, num_gpus) != (None, None, None):
        raise InputError("--address, --workers and --num-gpus are for --engine ray.")
    return engine_of(name) if name != "local" else LocalEngine(processes)
