"""``--storage-option KEY=VALUE``: given to every command that takes a database or a store."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lancedb_ft.storage import parse_storage_options, use_storage_options

__all__ = ["give_storage_options"]

_StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        help="KEY=VALUE for s3://, gs://, az:// [default: the environment, e.g. AWS_REGION].",
    ),
]
_NAME = "storage_option"


def give_storage_options(app: typer.Typer) -> None:
    """Add the option to all commands of an application, and of its groups, that name a place."""
    for info in app.registered_commands:
        if info.callback is not None:
            info.callback = _with_option(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            give_storage_options(group.typer_instance)


def _with_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with one more option, which holds for the places it is given."""
    signature = inspect.signature(command, eval_str=True)
    if "db" not in signature.parameters or _NAME in signature.parameters:
        return command

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        options = parse_storage_options(given.pop(_NAME) or [])
        for uri in (given.get("db"), given.get("store")):
            if options and uri and "://" in uri:
                use_storage_options(uri, options)
        return command(**given)

    more = inspect.Parameter(
        _NAME, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_StorageOption
    )
    parameters = [*signature.parameters.values(), more]
    # What typer reads: the signature, and the annotations that its type hints come from.
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
