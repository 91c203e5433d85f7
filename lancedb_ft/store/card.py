"""The model card: ``README.md`` in the form that Hugging Face reads, made from the manifest.

Nothing of it is copied from the training data. A manifest may hold anything a caller put there, so
only what has the shape of a figure, a setting or a name is taken over, key by key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lancedb_ft.arguments import is_number
from lancedb_ft.store.card_words import words_for

__all__ = ["PICTURE", "card"]

#: The picture of the training beside the card.
PICTURE = "training.png"

_METRIC = re.compile(r"^[a-z][a-z0-9_]{0,39}(@\d+)?$")
#: What a set of evaluation queries may be called: ``dev``, ``probe``, ``support@2 dev``.
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@/ -]{0,79}$")
#: A setting such as ``mnrl``, ``cpu``, ``cuda:0`` or ``bfloat16``: one word.
_WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@:+-]{0,79}$")
_HUB = re.compile(r"^(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@[\w.-]+)?$")
_SHOWN = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
_MODELS = ("base", "tuned", "final")


def card(manifest: Mapping[str, Any], *, picture: bool = False) -> str:
    """Return the model card of a version.

    Parameters
    ----------
    manifest
        Of the version, as the store completes it. Figures are shown with their number of queries
        and their intervals where it has them.
    picture
        Whether `PICTURE` stands beside it.
    """
    reference = f"{manifest['name']}@{manifest['version']}"
    words = words_for(manifest.get("kind"))
    parts = [
        _front_matter(manifest, reference),
        f"# {reference}",
        words.what,
        _facts(manifest),
        "## Use",
        words.use.replace("$REFERENCE", reference),
        *_section("## Evaluation", _evaluation(manifest)),
        *(["## Course of the training", f"![Figures by step]({PICTURE})"] * picture),
        *_section("## Training arguments", _arguments(manifest)),
        *_section("## Where the data comes from", _lineage(manifest)),
        "## Limits",
        words.limits,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> list[str]:
    return [title, body] if body else []


# --- front matter --------------------------------------------------------------------------


def _front_matter(manifest: Mapping[str, Any], reference: str) -> str:
    # Every JSON value is a YAML value, and is quoted safely whatever stands in it.
    words = words_for(manifest.get("kind"))
    tags = ["sentence-transformers", *words.tags, "lancedb-ft"]
    lines = ["---", "library_name: sentence-transformers", f"pipeline_tag: {words.tags[0]}"]
    if (base := _hub_name(_base_ref(manifest))) is not None:
        lines.append(f"base_model: {json.dumps(base)}")
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    results = [
        result for name, n, tables in _sets(manifest) if (result := _result(name, n, tables))
    ]
    if results:
        lines += ["metrics:", *(f"- {json.dumps(m)}" for m in _metrics_of(manifest))]
        model_index = json.dumps([{"name": reference, "results": results}])
        lines.append(f"model-index: {model_index}")
    return "\n".join([*lines, "---"])


def _result(name: str, n: int | None, tables: Mapping[str, Any]) -> dict[str, Any] | None:
    figures = tables.get("tuned", {})
    metrics = [
        {"type": metric, "value": round(mean, 6), "name": _told(metric, n, interval)}
        for metric, (mean, interval) in figures.items()
    ]
    if not metrics:
        return None
    return {
        "task": {"type": "information-retrieval", "name": "Information Retrieval"},
        "dataset": {"name": name, "type": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")},
        "metrics": metrics,
    }


def _told(metric: str, n: int | None, interval: tuple[float, float] | None) -> str:
    known = [f"n = {n}"] if n is not None else []
    known += [f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}"] if interval else []
    return f"{_title(metric)} ({', '.join(known)})" if known else _title(metric)


def _title(metric: str) -> str:
    stem, at, k = metric.partition("@")
    return f"{_SHOWN.get(stem, stem)}{at}{k}"


def _metrics_of(manifest: Mapping[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for _, _, tables in _sets(manifest):
        found.update(dict.fromkeys(tables.get("tuned", {})))
    return list(found)


# --- figures -------------------------------------------------------------------------------


def _sets(manifest: Mapping[str, Any]) -> Iterator[tuple[str, int | None, dict[str, Any]]]:
    """Yield each set of queries: its name, how many, ``{"base" | "tuned" | ...: figures}``."""
    metrics = manifest.get("metrics")
    if not isinstance(metrics, Mapping):
        return
    if own := _figures(metrics):
        yield "evaluation", None, {"tuned": own}
    for name, found in _named_sets(metrics):
        tables = {which: _figures(found.get(which)) for which in (*_MODELS, "delta")}
        n = found.get("n")
        if any(tables.values()):
            yield name, n if isinstance(n, int) else None, tables


def _named_sets(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in metrics.items():
        if not _NAME.fullmatch(str(key)) or not isinstance(value, Mapping):
            continue
        if key == "probe":
            yield from (
                (f"probe {name}", each)
                for name, each in value.items()
                if _NAME.fullmatch(str(name)) and isinstance(each, Mapping)
            )
        elif set(value) & set(_MODELS):
            yield str(key), value


def _figures(found: Any) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Return ``{metric: (mean, interval)}`` of what has the shape of figures."""
    figures: dict[str, tuple[float, tuple[float, float] | None]] = {}
    for metric, value in found.items() if isinstance(found, Mapping) else ():
        if not _METRIC.fullmatch(str(metric)):
            continue
        mean = value.get("mean") if isinstance(value, Mapping) else value
        if is_number(mean):
            bounds = value.get("ci95") if isinstance(value, Mapping) else None
            figures[metric] = (float(mean), _interval(bounds))
    return figures


def _interval(bounds: Any) -> tuple[float, float] | None:
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        return None
    low, high = bounds
    return (float(low), float(high)) if is_number(low) and is_number(high) else None


def _evaluation(manifest: Mapping[str, Any]) -> str:
    parts = []
    for name, n, tables in _sets(manifest):
        shown = {which: figures for which, figures in tables.items() if figures}
        rows = [
            [_title(metric), *(_cell(table.get(metric), which) for which, table in shown.items())]
            for metric in next(iter(shown.values()))
        ]
        of = f" (n = {n} queries)" if n is not None else ""
        parts.append(f"**{name}**{of}\n\n{_table(['metric', *shown], rows)}")
    if not parts:
        return ""
    return "\n\n".join([*parts, "In brackets: 95 % bootstrap intervals over queries."])


def _cell(figure: tuple[float, tuple[float, float] | None] | None, which: str) -> str:
    if figure is None:
        return ""
    mean, interval = figure
    sign = "+" if which == "delta" else ""
    between = f" [{interval[0]:{sign}.4f}, {interval[1]:{sign}.4f}]" if interval else ""
    return f"{mean:{sign}.4f}{between}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- facts ---------------------------------------------------------------------------------


def _base_ref(manifest: Mapping[str, Any]) -> str:
    base = manifest.get("base")
    found = base.get("ref") if isinstance(base, Mapping) else base
    return str(found) if found else ""


def _hub_name(reference: str) -> str | None:
    found = _HUB.fullmatch(reference)
    return found[1] if found else None


def _shown_base(manifest: Mapping[str, Any]) -> str:
    """Name the base; of a local path the last part, since the rest tells of the machine only."""
    reference = _base_ref(manifest)
    if not reference:
        return "not recorded"
    local = reference.startswith(("/", "~", ".")) or "\\" in reference
    return re.split(r"[\\/]", reference.rstrip("/\\"))[-1] if local else reference


def _facts(manifest: Mapping[str, Any]) -> str:
    lines = [
        f"- base: {_shown_base(manifest)}",
        f"- dims: {manifest['dims']}",
        f"- fingerprint: {manifest['fingerprint']}",
        f"- created: {manifest['created_at']}",
    ]
    if isinstance(manifest.get("parent"), str):
        lines.insert(1, f"- parent: {manifest['parent']}")
    return "\n".join(lines)


def _arguments(manifest: Mapping[str, Any]) -> str:
    training = manifest.get("training")
    rows = [
        [str(key), _setting(value)]
        for key, value in (training.items() if isinstance(training, Mapping) else ())
        if _WORD.fullmatch(str(key)) and _setting(value)
    ]
    return _table(["argument", "value"], rows) if rows else ""


def _setting(value: Any) -> str:
    """Return a number, a truth value, a word, or a list of them; anything else is left out."""
    if isinstance(value, bool) or is_number(value):
        return str(value)
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else ""
    if isinstance(value, list):
        parts = [_setting(part) for part in value]
        return ", ".join(parts) if parts and all(parts) else ""
    return ""


def _lineage(manifest: Mapping[str, Any]) -> str:
    lines = []
    table = manifest.get("table")
    if isinstance(table, Mapping) and _NAME.fullmatch(str(table.get("name") or "")):
        lines.append(f"- table: {table['name']}, Lance version {table.get('version')}")
    data = manifest.get("data")
    for key, value in data.items() if isinstance(data, Mapping) else ():
        if (is_number(value) and _WORD.fullmatch(str(key))) or key in ("fingerprint", "kind"):
            lines.append(f"- {str(key).replace('_', ' ')}: {_setting(value)}")
    if isinstance(manifest.get("seed"), int):
        lines.append(f"- seed: {manifest['seed']}")
    return "\n".join(lines)
