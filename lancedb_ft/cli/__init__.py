"""The command line ``lancedb-ft``: the verbs, with the names they have in Python."""

from lancedb_ft.cli.app import app, main

__all__ = ["app", "main"]
