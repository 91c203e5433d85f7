"""Folders with judged queries (BEIR, TREC), and Hugging Face data sets on disk."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.data.formats import (
    CUT_OFF,
    Row,
    beir_qrels,
    format_of,
    opened,
    plain_or_packed,
    read_rows,
    refuse_cut_off,
)
from lancedb_ft.data.qrels import value_of_part
from lancedb_ft.data.records import (
    ITEM_NAMES,
    Fields,
    choose_fields,
    choose_qrels_fields,
    clean_item,
    clean_judgement,
)
from lancedb_ft.data.split import PARTS
from lancedb_ft.data.training.columns import columns_of_schema, looked_at
from lancedb_ft.data.training.flat import collect_rows, parts_in, write_json_rows, writing
from lancedb_ft.data.training.formats import Format, Sniffed, Wanted
from lancedb_ft.data.training.kinds import as_kind, left_out_between, texts_by_id
from lancedb_ft.data.training.rows import RowCollector
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import KINDS, TrainingSet

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["FOLDER_FORMATS"]

_ROLES = ("query_id", "query", "doc_id", "document", "grade")


# --- judged queries ------------------------------------------------------------------------


def _read_judged(
    name: str, corpus: Path, queries: Path, qrels: Mapping[str, Path], wanted: Wanted, folder: Path
) -> TrainingSet:
    """Read judgements, then the texts that they name and no others."""
    part = _part_of(qrels, wanted.split, folder)
    collector = RowCollector("ranking", _ROLES)
    judged: dict[tuple[str, str], int] = {}
    fields: dict[str, str | None] | None = None
    for row in read_rows(qrels[part], qrels=True):
        if row.values is None:
            refuse_cut_off(row, f"File {str(qrels[part])!r}")
            collector.reject(row.reason)
            continue
        fields = fields or choose_qrels_fields(list(row.values), path=qrels[part])
        reason, found = clean_judgement(row.values, fields)
        if found is None:
            collector.reject(reason)
        else:
            query_id, doc_id, grade = found
            judged[query_id, doc_id] = max(grade, judged.get((query_id, doc_id), 0))
    texts, bad_documents = _texts_of("corpus", corpus, {doc_id for _, doc_id in judged})
    asked, bad_queries = _texts_of("queries", queries, {query_id for query_id, _ in judged})
    for (query_id, doc_id), grade in judged.items():
        if query_id not in asked:
            collector.reject("no query of this id")
        elif doc_id not in texts:
            collector.reject("no document of this id")
        else:
            row_values = (query_id, asked[query_id], doc_id, texts[doc_id], grade)
            collector.add(dict(zip(_ROLES, row_values, strict=True)))
    source = {
        "file": str(folder),
        "format": name,
        "kind": "ranking",
        "split": part or None,
        "rejected_texts": {"corpus": dict(bad_documents), "queries": dict(bad_queries)},
    }
    made = collector.training_set(
        source, name=f"Folder {str(folder)!r}", max_rejected=wanted.max_rejected
    )
    return made if wanted.kind is None else as_kind(made, wanted.kind)


def _part_of(qrels: Mapping[str, Path], wanted: str | None, folder: Path) -> str:
    """Choose the part to train on: train, if it is not said which."""
    part = "" if list(qrels) == [""] else wanted  # what names no part is any, as rows of a file
    if part is None:
        part = "train" if "train" in qrels else next(iter(qrels)) if len(qrels) == 1 else None
    else:
        part = value_of_part(part, list(qrels))
    if part not in qrels:
        if not qrels:
            raise InputError(f"The folder {str(folder)!r} has nothing to read: no qrels/*.tsv.")
        told = f"no part {wanted!r}" if wanted else "several parts"
        raise InputError(
            f"The folder {str(folder)!r} has {told}; it has {', '.join(map(repr, qrels))}. Name "
            "one with split=."
        )
    return str(part)


def _texts_of(kind: Any, path: Path, wanted: set[str]) -> tuple[dict[str, str], Counter[str]]:
    """Return ``{id: text}`` of those wanted, and the rows that have no text, by reason."""
    texts: dict[str, str] = {}
    rejected: Counter[str] = Counter()
    fields: Fields | None = None
    for row in _item_rows(kind, path):
        if row.values is None:
            refuse_cut_off(row, f"File {str(path)!r}")
            rejected[row.reason] += 1
            continue
        fields = fields or choose_fields(kind, list(row.values), path=path)
        reason, item = clean_item(row.values, fields, join_title=True)
        if reason:
            rejected[reason] += 1
        elif item["id"] in wanted and texts.setdefault(item["id"], item["text"]) != item["text"]:
            rejected["an id with two texts (the first is kept)"] += 1
    return texts, rejected


def _item_rows(kind: str, path: Path) -> Iterator[Row]:
    """Read rows of documents or queries; TREC and MS MARCO have TSV without a header."""
    if format_of(path) != "tsv":
        yield from read_rows(path)
        return
    with opened(path) as (_, stream):
        first = stream.readline().decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
    ids, texts = ITEM_NAMES[kind]
    if set(first) & {*ids, *texts}:
        yield from read_rows(path)
        return
    with opened(path) as (_, stream):
        for number, line in enumerate(stream, 1):
            try:
                identifier, tab, text = line.decode("utf-8-sig").rstrip("\r\n").partition("\t")
            except UnicodeDecodeError:
                yield Row(number, None, "not UTF-8")
                continue
            if tab:
                yield Row(number, {"id": identifier, "text": text})
            elif identifier.strip():
                is_whole = line.endswith(b"\n")
                yield Row(number, None, "not an id, a tab and a text" if is_whole else CUT_OFF)


def _read_beir(path: Path, wanted: Wanted) -> TrainingSet:
    corpus, queries = (plain_or_packed(path / name) for name in ("corpus.jsonl", "queries.jsonl"))
    return _read_judged("beir", corpus, queries, beir_qrels(path / "qrels"), wanted, path)


def _read_trec(path: Path, wanted: Wanted) -> TrainingSet:
    files = _trec_files(path)
    qrels = _trec_qrels_of(path)
    corpus = path / files["corpus"][0]
    queries = path / _queries_of(_part_of(qrels, wanted.split, path), files["queries"], path)
    return _read_judged("trec", corpus, queries, qrels, wanted, path)


def _queries_of(part: str, names: Sequence[str], path: Path) -> str:
    """Choose the queries of a part: by its name, or those of no part, never those of another."""
    found = [name for name in names if _split_in(name) == part]
    found = found or [name for name in names if not _split_in(name)]
    if not part and len(names) == 1:  # judgements of no part name any queries
        found = list(names)
    if not found:
        told = f"of the part {part!r}" if part else "that name no part"
        raise InputError(
            f"The folder {str(path)!r} has judgements {told}, and queries only of others: "
            f"{', '.join(map(repr, names))}. Two parts may give one id to two queries. Name the "
            f"queries by the part, such as queries.{part or 'train'}.tsv, or if they are those of "
            "all parts, queries.tsv."
        )
    return found[0]


def _trec_files(path: Path) -> dict[str, list[str]]:
    names = [found.name for found in sorted(path.iterdir()) if found.is_file()]
    files = {what: _named_like(names, words) for what, words in _TREC_NAMES.items()}
    for what, found in files.items():
        if not found:
            raise InputError(
                f"The folder {str(path)!r} has no file of the {what}: none whose name has "
                f"{' or '.join(map(repr, _TREC_NAMES[what]))} in it."
            )
    return files


def _trec_qrels_of(path: Path) -> dict[str, Path]:
    """Return the judgements of each part."""
    qrels: dict[str, Path] = {}
    for name in _trec_files(path)["qrels"]:
        part = _split_in(name)
        if part in qrels:
            told = f"of the part {part!r}" if part else "that name no part"
            raise InputError(
                f"The folder {str(path)!r} has two files of judgements {told}: "
                f"{qrels[part].name!r} and {name!r}. Make them one, or name each by its part, such "
                "as qrels.train.tsv."
            )
        qrels[part] = path / name
    return qrels


_TREC_NAMES: Mapping[str, Sequence[str]] = {
    "qrels": ("qrel",),
    "queries": ("queries", "topics"),
    "corpus": ("corpus", "collection", "documents", "docs"),
}


def _named_like(names: Sequence[str], words: Sequence[str]) -> list[str]:
    # What begins with a dot, or ends in a tilde, an editor has left there.
    kept = (name for name in names if not name.startswith(".") and not name.endswith("~"))
    return [name for name in kept if any(word in name.lower() for word in words)]


def _split_in(name: str) -> str:
    """Return the part that a file like ``qrels.train.tsv`` is for; empty if it does not say."""
    words = re.split(r"[^a-z]+", name.lower())
    named = (part for part in PARTS if any(value_of_part(part, [word]) for word in words))
    inside = (part for part in PARTS if part in name.lower())
    return next(named, None) or next(inside, "")


def _is_beir(found: Sniffed) -> bool:
    corpus = {"corpus.jsonl", "corpus.jsonl.gz"} & set(found.names)
    return bool(corpus) and "qrels" in found.names


def _is_trec(found: Sniffed) -> bool:
    return all(_named_like(found.names, words) for words in _TREC_NAMES.values())


def _write_judged(
    training_set: TrainingSet,
    path: Path,
    names: tuple[str, str],
    qrels: Callable[[Path, Sequence[Mapping[str, Any]]], None],
) -> dict[str, int]:
    ranked = as_kind(training_set, "ranking")
    rows = ranked.table.to_pylist()
    documents = texts_by_id(rows, "doc_id", "document")
    queries = texts_by_id(rows, "query_id", "query")
    id_name, text_name = names
    write_json_rows(
        path / "corpus.jsonl",
        ({id_name: key, **_title(id_name), text_name: text} for key, text in documents.items()),
    )
    write_json_rows(
        path / "queries.jsonl", ({id_name: key, "text": text} for key, text in queries.items())
    )
    qrels(path, rows)
    lost = left_out_between(training_set, ranked)
    repeated = len(training_set) - len(rows)
    return {**lost, "repeated pairs": repeated} if repeated else lost


def _title(id_name: str) -> dict[str, str]:
    return {"title": ""} if id_name == "_id" else {}


def _beir_qrels(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with writing(path / "qrels" / "train.tsv") as text:
        lines = csv.writer(text, delimiter="\t", lineterminator="\n")
        lines.writerow(["query-id", "corpus-id", "score"])
        lines.writerows([row["query_id"], row["doc_id"], row["grade"]] for row in rows)


def _trec_qrels(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for key in ("query_id", "doc_id"):
            if len(row[key].split()) != 1:
                raise InputError(
                    f"The {key} {row[key]!r} has white space in it, which separates the columns of "
                    "TREC qrels. Write another format (beir, llamaindex)."
                )
    with writing(path / "qrels.trec") as text:
        for row in rows:
            text.write(f"{row['query_id']} 0 {row['doc_id']} {row['grade']}\n")


# --- Hugging Face --------------------------------------------------------------------------


def _read_hf(path: Path, wanted: Wanted) -> TrainingSet:
    folder, part = _hf_folder(path, wanted.split)
    name = f"Folder {str(folder)!r}"
    source = {"file": str(path), "format": "hf", "split": part}
    found = _hf_loaded(folder)
    labels = {n: f.names for n, f in found.features.items() if hasattr(f, "names")}
    first, rows = looked_at(_hf_rows(found, labels))
    columns = columns_of_schema(found.features.arrow_schema, first)
    columns = replace(columns, numbers=set(columns.numbers) - set(labels))
    return collect_rows(rows, columns, wanted, source, name=name)


def _hf_loaded(folder: Path) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset, load_from_disk

    name = f"Folder {str(folder)!r}"
    try:
        found = load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{name} is torn or no data set of Hugging Face: {error}") from error
    if not isinstance(found, Dataset):
        raise InputError(f"{name} is not one data set.")
    return found


def _hf_parts(path: Path) -> list[str]:
    splits = _hf_splits(path)
    if splits is not None:
        return splits
    return parts_in(_hf_rows(_hf_loaded(path), {}), same_columns=True)


def _hf_rows(found: Any, labels: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Yield the rows, numbers of class labels as the names that they stand for.

    A row without a label has -1 there, which is no class.
    """
    number = 0
    for batch in found.with_format("arrow").iter(batch_size=4096):
        for values in batch.to_pylist():
            number += 1
            for column, names in labels.items():
                value = values[column]
                if isinstance(value, int):
                    values[column] = names[value] if 0 <= value < len(names) else None
            yield Row(number, values)


def _hf_folder(path: Path, wanted: str | None) -> tuple[Path, str | None]:
    """Return the folder of one data set; a DatasetDict holds one for each part."""
    splits = _hf_splits(path)
    if splits is None:
        return path, None
    part = _part_of({name: path / name for name in splits}, wanted, path)
    return path / part, part


def _hf_splits(path: Path) -> list[str] | None:
    """Return the parts of a DatasetDict; None if it is none."""
    told = path / "dataset_dict.json"
    if not told.is_file():
        return None
    try:
        return list(json.loads(told.read_text(encoding="utf-8"))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The file {str(told)!r} is torn: {error}") from error


def _write_hf(training_set: TrainingSet, path: Path) -> dict[str, int]:
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset(datasets.table.InMemoryTable(training_set.table)).save_to_disk(str(path))
    finally:
        if not shown:
            datasets.enable_progress_bars()
    return {}


def _is_hf(found: Sniffed) -> bool:
    names = set(found.names)
    return "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names


FOLDER_FORMATS = (
    Format(
        "hf",
        "a Hugging Face data set saved with save_to_disk (a folder)",
        _read_hf,
        _write_hf,
        _is_hf,
        tuple(KINDS),
        parts=_hf_parts,
    ),
    Format(
        "beir",
        "BEIR: a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv",
        _read_beir,
        lambda made, path: _write_judged(made, path, ("_id", "text"), _beir_qrels),
        _is_beir,
        ("ranking", "pairs"),
        fixed_columns=True,
        parts=lambda path: list(beir_qrels(path / "qrels")),
    ),
    Format(
        "trec",
        "TREC: a folder with qrels in four columns, queries (or topics) and corpus",
        _read_trec,
        lambda made, path: _write_judged(made, path, ("id", "contents"), _trec_qrels),
        _is_trec,
        ("ranking", "pairs"),
        fixed_columns=True,
        parts=lambda path: list(_trec_qrels_of(path)),
    ),
)
