"""The file formats of other projects: FlagEmbedding (BGE), LlamaIndex, OpenAI."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lancedb_ft.data.formats import Row, opened_text
from lancedb_ft.data.training.flat import (
    collect_rows,
    json_rows,
    parts_in,
    row_reader,
    rows_of,
    write_json_rows,
    writing,
)
from lancedb_ft.data.training.formats import Format, Sniffed, Wanted
from lancedb_ft.data.training.json_stream import JsonStream
from lancedb_ft.data.training.kinds import (
    OTHER_SPELLINGS,
    as_kind,
    left_out_between,
    texts_by_id,
)
from lancedb_ft.data.training.roles import Columns
from lancedb_ft.data.training.rows import SPLIT_COLUMN
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet

__all__ = ["NAMED_FORMATS"]


# --- FlagEmbedding -------------------------------------------------------------------------

_BGE_COLUMNS = (
    "query",
    "positive",
    "negatives",
    "query_id",
    "doc_id",
    "negative_ids",
    "positive_score",
    "negative_scores",
)


def _read_bge(path: Path, wanted: Wanted) -> TrainingSet:
    name = f"File {str(path)!r}"
    prompts: Counter[str] = Counter()
    has_negatives = any((row.values or {}).get("neg") for row in json_rows(path))
    kind = "negatives" if has_negatives else "pairs"
    found = [n for n in _BGE_COLUMNS if has_negatives or not n.startswith("negative")]
    lists = [n for n in found if n.startswith("negative")]
    split = [SPLIT_COLUMN] if parts_in(json_rows(path)) else []
    columns = Columns([*found, *split], lists=lists)
    natural = replace(wanted, kind=kind)
    made = collect_rows(
        _bge_rows(json_rows(path), prompts),
        columns,
        natural,
        {"file": str(path), "format": "bge"},
        name=name,
    )
    if len(prompts) > 1:
        raise InputError(
            f"{name} has {len(prompts)} different prompts, and a training set has one. Make a file "
            "of each and train on them together."
        )
    prompt = next(iter(prompts), "") or None
    made = TrainingSet(made.kind, made.table, made.source, query_prompt=prompt)
    return made if wanted.kind is None else as_kind(made, wanted.kind)


def _bge_rows(rows: Iterable[Row], prompts: Counter[str]) -> Iterator[Row]:
    """Yield a row for each positive."""
    for row in rows:
        if row.values is None:
            yield row
            continue
        positives = row.values.get("pos")
        positives = [positives] if isinstance(positives, str) else positives
        if not isinstance(positives, list) or not positives:
            yield Row(row.line, None, "pos is not a list of texts")
            continue
        scores = row.values.get("pos_scores") or [None] * len(positives)
        if not isinstance(scores, list) or len(scores) != len(positives):
            yield Row(row.line, None, "pos and pos_scores are not equally many")
            continue
        prompts[str(row.values.get("prompt") or "")] += 1
        ids = row.values.get("pos_id") or [None] * len(positives)
        ids = ids if isinstance(ids, list) and len(ids) == len(positives) else [None] * len(scores)
        for text, score, doc_id in zip(positives, scores, ids, strict=True):
            values = {
                "query": row.values.get("query"),
                "positive": text,
                "negatives": row.values.get("neg"),
                "query_id": row.values.get("query_id"),
                "doc_id": doc_id,
                "negative_ids": row.values.get("neg_id"),
                "positive_score": score,
                "negative_scores": row.values.get("neg_scores"),
                SPLIT_COLUMN: row.values.get(SPLIT_COLUMN),
            }
            yield Row(row.line, values)


def _write_bge(training_set: TrainingSet, path: Path) -> dict[str, int]:
    left_out = _lost(training_set, ["group"])
    if training_set.kind == "triplets":
        training_set = as_kind(training_set, "negatives")

    def rows() -> Iterator[dict[str, Any]]:
        for row in rows_of(training_set):
            yield _bge_row(row, training_set.query_prompt)

    write_json_rows(path, rows())
    return left_out


def _bge_row(row: Mapping[str, Any], prompt: str | None) -> dict[str, Any]:
    query = row["query"] if "query" in row else row["anchor"]
    found = {"query": query, "pos": [row["positive"]], "neg": row.get("negatives", [])}
    if "positive_score" in row:
        found["pos_scores"] = [row["positive_score"]]
    if "negative_scores" in row:
        found["neg_scores"] = row["negative_scores"]
    if "query_id" in row:
        found["query_id"] = row["query_id"]
    if "doc_id" in row:
        found["pos_id"] = [row["doc_id"]]
    if "negative_ids" in row:
        found["neg_id"] = row["negative_ids"]
    if prompt is not None:
        found["prompt"] = prompt
    return found


def _is_bge(found: Sniffed) -> bool:
    row = found.first or {}
    return "query" in row and isinstance(row.get("pos"), list)


# --- LlamaIndex ----------------------------------------------------------------------------

_LLAMA_KEYS = ("queries", "corpus", "relevant_docs", "mode")


def _read_llamaindex(path: Path, wanted: Wanted) -> TrainingSet:
    name = f"File {str(path)!r}"
    try:
        with opened_text(path) as text:
            found = _llama_parts(JsonStream(text))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"The archive {str(path)!r} is torn: {error}") from error
    except ValueError as error:
        raise InputError(f"{name} is torn or no JSON: {error}") from error
    missing = [key for key in _LLAMA_KEYS[:3] if key not in found]
    if missing:
        raise InputError(f"{name} has no {' and no '.join(missing)}; such a file has all three.")
    rows = _llama_rows(found["queries"], found["corpus"], found["relevant_docs"])
    natural = Wanted("pairs", max_rejected=wanted.max_rejected)
    columns = Columns(["anchor", "positive", "query_id", "doc_id"])
    source = {"file": str(path), "format": "llamaindex"}
    made = collect_rows(rows, columns, natural, source, name=name)
    return made if wanted.kind is None else as_kind(made, wanted.kind)


def _llama_parts(stream: JsonStream) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key in stream.each_key():
        if key in _LLAMA_KEYS[:3]:
            found[key] = dict(stream.each_item())
        else:
            stream.value()
    stream.end()
    return found


def _llama_rows(
    queries: Mapping[str, Any], corpus: Mapping[str, Any], relevant: Mapping[str, Any]
) -> Iterator[Row]:
    number = 0
    for query_id, doc_ids in relevant.items():
        for doc_id in doc_ids if isinstance(doc_ids, list) else [doc_ids]:
            number += 1
            if not isinstance(doc_id, str):
                yield Row(number, None, "an id of a document is not text")
            elif query_id not in queries:
                yield Row(number, None, "no query of this id")
            elif doc_id not in corpus:
                yield Row(number, None, "no document of this id")
            else:
                values = {"anchor": queries[query_id], "positive": corpus[doc_id]}
                yield Row(number, {**values, "query_id": query_id, "doc_id": doc_id})


def _write_llamaindex(training_set: TrainingSet, path: Path) -> dict[str, int]:
    ranked = as_kind(training_set, "ranking")
    left_out = left_out_between(training_set, ranked)
    rows = ranked.table.to_pylist()
    judged = [row for row in rows if row["grade"] > 0]
    left_out |= {"documents of grade 0": len(rows) - len(judged)}
    left_out |= {"repeated pairs": len(training_set) - len(rows)}
    left_out |= {"grades above 1": sum(row["grade"] > 1 for row in judged)}
    relevant: dict[str, list[str]] = {}
    for row in judged:
        relevant.setdefault(row["query_id"], []).append(row["doc_id"])
    parts: dict[str, Mapping[str, Any]] = {
        "queries": texts_by_id(judged, "query_id", "query"),
        "corpus": texts_by_id(judged, "doc_id", "document"),
        "relevant_docs": relevant,
    }
    n_other = sum(parts["queries"][row["query_id"]] != row["query"] for row in judged) + sum(
        parts["corpus"][row["doc_id"]] != row["document"] for row in judged
    )
    left_out[OTHER_SPELLINGS] = left_out.get(OTHER_SPELLINGS, 0) + n_other
    with writing(path) as text:
        text.write("{\n")
        for key, values in parts.items():
            text.write(f'    "{key}": {{')
            for position, (name, value) in enumerate(values.items()):
                text.write(",\n        " if position else "\n        ")
                told = json.dumps(value, ensure_ascii=False)
                text.write(f"{json.dumps(name, ensure_ascii=False)}: {told}")
            text.write("\n    },\n")
        text.write('    "mode": "text"\n}\n')
    return {what: n for what, n in left_out.items() if n}


def _lost(training_set: TrainingSet, names: Iterable[str]) -> dict[str, int]:
    """Count the columns that the format has no place for."""
    return {n: len(training_set) for n in names if n in training_set.table.column_names}


# --- OpenAI --------------------------------------------------------------------------------


def _write_openai(training_set: TrainingSet, path: Path) -> dict[str, int]:
    rows = ({"input": row["anchor"], "output": row["positive"]} for row in rows_of(training_set))
    write_json_rows(path, rows)
    return _lost(training_set, ["query_id", "doc_id", "group"])


def _is_openai(found: Sniffed) -> bool:
    return found.first is not None and {"input", "output"} <= set(found.first)


NAMED_FORMATS = (
    Format(
        "bge",
        "FlagEmbedding (BGE): JSON lines of query, pos, neg, pos_scores, neg_scores, prompt",
        _read_bge,
        _write_bge,
        _is_bge,
        ("negatives", "triplets", "pairs"),
        fixed_columns=True,
        parts=lambda path: parts_in(json_rows(path)),
    ),
    Format(
        "llamaindex",
        "LlamaIndex EmbeddingQAFinetuneDataset: JSON of queries, corpus, relevant_docs, mode",
        _read_llamaindex,
        _write_llamaindex,
        lambda found: found.top_key in _LLAMA_KEYS,
        ("pairs", "ranking"),
        fixed_columns=True,
    ),
    Format(
        "openai",
        "OpenAI style: JSON lines of input and output",
        row_reader("openai", json_rows),
        _write_openai,
        _is_openai,
        ("pairs",),
        parts=lambda path: parts_in(json_rows(path)),
    ),
)
