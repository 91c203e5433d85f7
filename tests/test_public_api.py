"""The public interface: what is there, and that nothing vanishes or slips in unnoticed."""

import inspect
import subprocess
import sys

import lancedb_ft

PUBLIC = [
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


def test_the_names_are_these():
    assert sorted(lancedb_ft.__all__) == sorted(PUBLIC)


def test_every_name_is_there_and_documented():
    for name in PUBLIC:
        value = getattr(lancedb_ft, name)
        assert name == "__version__" or inspect.getdoc(value), name


def test_verbs_stay_functions_when_their_rooms_are_imported():
    import lancedb_ft.evaluate
    import lancedb_ft.reindex
    import lancedb_ft.search
    import lancedb_ft.train

    for name in ("evaluate", "reindex", "search", "train"):
        assert inspect.isfunction(getattr(lancedb_ft, name)), name


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(lancedb_ft, "no_such_verb")


def test_the_import_is_light():
    heavy = ["torch", "transformers", "sentence_transformers", "datasets", "typer", "rich"]
    code = f"import sys, lancedb_ft; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
