"""The command line ``lancedb-ft``: the verbs, with the names they have in Python."""

from lancedb_ft.cli.app import build_app, main

__all__ = ["build_app", "main"]
