"""lancedb-ft: fine-tuned embedding models for LanceDB tables.

Importing this package registers ``"ft-embed"`` in LanceDB's embedding registry, lets table handles
that stay open follow a switch of the model, and completes writes to tables that were re-indexed.
Everything else is loaded when it is first used, so the import stays fast.

>>> import lancedb_ft
>>> from lancedb.embeddings import get_registry
>>> get_registry().get("ft-embed").__name__
'FineTunedEmbeddings'
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lancedb_ft._version import __version__
from lancedb_ft.embedding import FineTunedEmbeddings, register
from lancedb_ft.handles import follow_switches
from lancedb_ft.writes import complete_writes

if TYPE_CHECKING:
    from lancedb_ft.churn import settle, write
    from lancedb_ft.data import (
        audit,
        labelled_queries,
        load_clicks,
        load_files,
        pairs_from_columns,
        read_api_docs,
        read_pairs,
        read_qrels,
        read_qrels_split,
        read_ranking,
        read_training_file,
        read_training_set,
        split_pairs,
        split_training_set,
        write_training_file,
        write_training_table,
    )
    from lancedb_ft.data.mine import (
        MinedNegatives,
        bm25_retriever,
        cross_encoder_teacher,
        curriculum,
        mine_negatives,
    )
    from lancedb_ft.encoder import Encoder, get_encoder
    from lancedb_ft.errors import LancedbFtError
    from lancedb_ft.evaluate import (
        compare,
        evaluate,
        exact_retriever,
        read_run,
        retriever,
        write_run,
    )
    from lancedb_ft.mining import mine_rounds, table_candidates
    from lancedb_ft.pipeline import improve
    from lancedb_ft.reindex import (
        finish,
        plan_reindex,
        reindex,
        reindex_status,
        rollback,
        sweep,
        switch,
        verify,
    )
    from lancedb_ft.reranking import (
        CohereReranker,
        ColbertReranker,
        FineTunedReranker,
        GuardedReranker,
        LLMReranker,
        RerankerChain,
        RerankGuard,
        get_reranker,
    )
    from lancedb_ft.search import (
        Calibration,
        Explanation,
        Fusion,
        Highlight,
        LearnedRanking,
        Maintenance,
        Searcher,
        SearchInfo,
        SearchOptions,
        TextMatch,
        Tiers,
        calibrate,
        explain,
        fit_auto,
        fit_fusion,
        index_status,
        maintain,
        search,
        search_many,
    )
    from lancedb_ft.storage import use_storage_options
    from lancedb_ft.store import ModelStore, resolve_model
    from lancedb_ft.telemetry import log_searches, send_telemetry
    from lancedb_ft.train import (
        SearchSpace,
        distill,
        explain_training,
        interpolate_models,
        train,
        train_reranker,
        tune,
    )
    from lancedb_ft.training_sets import TrainingSet, TrainingSplit
    from lancedb_ft.types import (
        Comparison,
        Delta,
        Estimate,
        Evaluation,
        Gate,
        ModelVersion,
        Pairs,
        Retriever,
        Split,
    )

#: Where each public name lives. The package's whole public interface, pinned by a test.
_HOMES = {
    "Calibration": "search.calibration",
    "CohereReranker": "reranking",
    "ColbertReranker": "reranking",
    "Comparison": "types",
    "Delta": "types",
    "Encoder": "encoder",
    "Estimate": "types",
    "Evaluation": "types",
    "Explanation": "search",
    "FineTunedReranker": "reranking",
    "Fusion": "search",
    "Gate": "types",
    "GuardedReranker": "reranking",
    "Highlight": "search",
    "LLMReranker": "reranking",
    "LancedbFtError": "errors",
    "LearnedRanking": "search",
    "Maintenance": "search.maintain",
    "MinedNegatives": "data.mine",
    "ModelStore": "store",
    "ModelVersion": "types",
    "Pairs": "types",
    "RerankGuard": "reranking",
    "RerankerChain": "reranking",
    "Retriever": "types",
    "SearchInfo": "search",
    "SearchOptions": "search",
    "SearchSpace": "train",
    "Searcher": "search",
    "Split": "types",
    "TextMatch": "search",
    "Tiers": "search.tiers",
    "TrainingSet": "training_sets",
    "TrainingSplit": "training_sets",
    "audit": "data",
    "bm25_retriever": "data.mine",
    "calibrate": "search.calibrate",
    "compare": "evaluate",
    "cross_encoder_teacher": "data.mine",
    "curriculum": "data.mine",
    "distill": "train",
    "evaluate": "evaluate",
    "exact_retriever": "evaluate",
    "explain": "search",
    "explain_training": "train",
    "finish": "reindex",
    "fit_auto": "search",
    "fit_fusion": "search",
    "get_encoder": "encoder",
    "get_reranker": "reranking",
    "improve": "pipeline",
    "index_status": "search.index_status",
    "interpolate_models": "train",
    "labelled_queries": "data",
    "load_clicks": "data",
    "load_files": "data",
    "log_searches": "telemetry",
    "maintain": "search.maintain",
    "mine_negatives": "data.mine",
    "mine_rounds": "mining",
    "pairs_from_columns": "data",
    "plan_reindex": "reindex",
    "read_api_docs": "data",
    "read_pairs": "data",
    "read_qrels": "data",
    "read_qrels_split": "data",
    "read_ranking": "data",
    "read_run": "evaluate",
    "read_training_file": "data",
    "read_training_set": "data",
    "reindex": "reindex",
    "reindex_status": "reindex",
    "resolve_model": "store",
    "retriever": "evaluate",
    "rollback": "reindex",
    "search": "search",
    "search_many": "search",
    "send_telemetry": "telemetry",
    "settle": "churn",
    "split_pairs": "data",
    "split_training_set": "data",
    "sweep": "reindex",
    "switch": "reindex",
    "table_candidates": "mining",
    "train": "train",
    "train_query_adapter": "train",
    "train_reranker": "train",
    "tune": "train",
    "use_storage_options": "storage",
    "verify": "reindex",
    "write": "churn",
    "write_run": "evaluate",
    "write_training_file": "data",
    "write_training_table": "data",
}

__all__ = [
    "Calibration",
    "CohereReranker",
    "ColbertReranker",
    "Comparison",
    "Delta",
    "Encoder",
    "Estimate",
    "Evaluation",
    "Explanation",
    "FineTunedEmbeddings",
    "FineTunedReranker",
    "Fusion",
    "Gate",
    "GuardedReranker",
    "Highlight",
    "LLMReranker",
    "LancedbFtError",
    "LearnedRanking",
    "Maintenance",
    "MinedNegatives",
    "ModelStore",
    "ModelVersion",
    "Pairs",
    "RerankGuard",
    "RerankerChain",
    "Retriever",
    "SearchInfo",
    "SearchOptions",
    "SearchSpace",
    "Searcher",
    "Split",
    "TextMatch",
    "Tiers",
    "TrainingSet",
    "TrainingSplit",
    "__version__",
    "audit",
    "bm25_retriever",
    "calibrate",
    "compare",
    "cross_encoder_teacher",
    "curriculum",
    "distill",
    "evaluate",
    "exact_retriever",
    "explain",
    "explain_training",
    "finish",
    "fit_auto",
    "fit_fusion",
    "get_encoder",
    "get_reranker",
    "improve",
    "index_status",
    "interpolate_models",
    "labelled_queries",
    "load_clicks",
    "load_files",
    "log_searches",
    "maintain",
    "mine_negatives",
    "mine_rounds",
    "pairs_from_columns",
    "plan_reindex",
    "read_api_docs",
    "read_pairs",
    "read_qrels",
    "read_qrels_split",
    "read_ranking",
    "read_run",
    "read_training_file",
    "read_training_set",
    "reindex",
    "reindex_status",
    "resolve_model",
    "retriever",
    "rollback",
    "search",
    "search_many",
    "send_telemetry",
    "settle",
    "split_pairs",
    "split_training_set",
    "sweep",
    "switch",
    "table_candidates",
    "train",
    "train_query_adapter",
    "train_reranker",
    "tune",
    "use_storage_options",
    "verify",
    "write",
    "write_run",
    "write_training_file",
    "write_training_table",
]


class _Porch(ModuleType):
    """The package itself: its attributes are the verbs.

    Some verbs share their name with the room they live in. Importing ``lancedb_ft.train`` makes
    Python bind the module to the attribute ``train``; here the verb keeps it. The rooms are
    reached as in ``from lancedb_ft.train import ...``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lancedb_ft' has no attribute {name!r}")
    value = getattr(import_module(f"lancedb_ft.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Porch
register()
follow_switches()
complete_writes()
