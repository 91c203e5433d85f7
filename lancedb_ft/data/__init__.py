"""Data: from tables and files to pairs, and from pairs to a split that is proved clean."""

from lancedb_ft.data.audit import AuditReport, audit
from lancedb_ft.data.docstring_split import api_docs_split
from lancedb_ft.data.docstrings import ApiDocs, read_api_docs
from lancedb_ft.data.leaks import Leak, drop_leaks
from lancedb_ft.data.load import load_files
from lancedb_ft.data.load_report import FileReport, LoadReport
from lancedb_ft.data.near import near_duplicate_groups, near_duplicate_pairs
from lancedb_ft.data.qrels import read_qrels, read_qrels_split, sample_queries
from lancedb_ft.data.read import pairs_from_columns, read_pairs
from lancedb_ft.data.split import split_pairs

__all__ = [
    "ApiDocs",
    "AuditReport",
    "FileReport",
    "Leak",
    "LoadReport",
    "api_docs_split",
    "audit",
    "drop_leaks",
    "load_files",
    "near_duplicate_groups",
    "near_duplicate_pairs",
    "pairs_from_columns",
    "read_api_docs",
    "read_pairs",
    "read_qrels",
    "read_qrels_split",
    "sample_queries",
    "split_pairs",
]
