"""Data: from tables and files to pairs, and from pairs to a split that is proved clean."""

from lancedb_ft.data.audits.audit import AuditReport, audit
from lancedb_ft.data.clicks import load_clicks
from lancedb_ft.data.docstring_split import api_docs_split
from lancedb_ft.data.docstrings import ApiDocs, read_api_docs
from lancedb_ft.data.leaks import Leak, drop_leaks
from lancedb_ft.data.load import load_files
from lancedb_ft.data.load_report import FileReport, LoadReport
from lancedb_ft.data.near import near_duplicate_groups, near_duplicate_pairs
from lancedb_ft.data.qrels import read_qrels, read_qrels_split, sample_queries
from lancedb_ft.data.read import pairs_from_columns, read_pairs
from lancedb_ft.data.shared_texts import check_disjoint, find_shared_texts
from lancedb_ft.data.split import split_pairs
from lancedb_ft.data.training.examples import (
    labelled_pairs,
    labelled_queries,
    nli_triplets,
    ranking_pairs,
)
from lancedb_ft.data.training.files import FORMATS, read_training_file, write_training_file
from lancedb_ft.data.training.formats import Format, Written
from lancedb_ft.data.training.kinds import as_kind
from lancedb_ft.data.training.split import split_training_set
from lancedb_ft.data.training.tables import (
    read_ranking,
    read_training_set,
    write_training_table,
)

__all__ = [
    "FORMATS",
    "ApiDocs",
    "AuditReport",
    "FileReport",
    "Format",
    "Leak",
    "LoadReport",
    "Written",
    "api_docs_split",
    "as_kind",
    "audit",
    "check_disjoint",
    "drop_leaks",
    "find_shared_texts",
    "labelled_pairs",
    "labelled_queries",
    "load_clicks",
    "load_files",
    "near_duplicate_groups",
    "near_duplicate_pairs",
    "nli_triplets",
    "pairs_from_columns",
    "ranking_pairs",
    "read_api_docs",
    "read_pairs",
    "read_qrels",
    "read_qrels_split",
    "read_ranking",
    "read_training_file",
    "read_training_set",
    "sample_queries",
    "split_pairs",
    "split_training_set",
    "write_training_file",
    "write_training_table",
]
