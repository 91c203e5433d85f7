"""The files of a sentence-transformers folder: which there are, and how their configs are spelled.

sentence-transformers 6 writes other module paths and config keys than 5.x, and a folder it saved
does not load in 5.x. Version 6 still reads the older spelling, so the store writes that one
(`to_5x`), and the fingerprint is taken over it, so that a spelling never changes a fingerprint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = [
    "CROSS_ENCODER",
    "EMBEDDER",
    "MODULE_TYPES",
    "ONLY_6X",
    "SHARD",
    "Folder",
    "Module",
    "canonical",
    "config_kind",
    "rewrite_as_5x",
    "to_5x",
]

#: What a folder is a model of: vectors of texts, or scores of pairs of texts.
EMBEDDER, CROSS_ENCODER = "embedder", "cross-encoder"

_5X = "sentence_transformers.models."
_BASE = "sentence_transformers.base.modules."
_TEXT = "sentence_transformers.sentence_transformer.modules."

#: Every accepted ``type`` of ``modules.json`` -> the class it names. These seven hold weights and
#: settings, and nothing they load names a class, a file or a host (but see Dense in ``trust``).
MODULE_TYPES: dict[str, str] = {
    spelled: name
    for name, home, file in (
        ("Transformer", _BASE, "transformer"),
        ("Dense", _BASE, "dense"),
        ("Normalize", _BASE, "normalize"),
        ("Pooling", _TEXT, "pooling"),
        ("StaticEmbedding", _TEXT, "static_embedding"),
        ("LayerNorm", _TEXT, "layer_norm"),
        ("Dropout", _TEXT, "dropout"),
    )
    for spelled in (
        f"{_5X}{name}",
        f"{_5X}{name}.{name}",
        f"{home}{name}",
        f"{_TEXT}{name}",
        f"{home}{file}.{name}",
    )
}

#: The configs of a Transformer module; sentence-transformers tries them in this order.
BERT_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
#: Kinds of configs that only sentence-transformers 6 writes for a cross-encoder; 5.x has a plain
#: transformers folder.
ONLY_6X = ("modules", "model", "bert")
#: One part of weights that were split over several files.
SHARD = re.compile(r"^model-\d{5}-of-\d{5}\.safetensors$")


@dataclass(frozen=True)
class Module:
    """One step of the model: the class, by its bare name, and its sub-folder (``""`` = root)."""

    cls: str
    path: str


@dataclass(frozen=True)
class Folder:
    """A model folder that passed the check: its modules and the files that make its vectors.

    ``files`` are relative, with forward slashes, sorted. ``configs`` holds the parsed JSON of those
    that are configs, so that what was checked is what is read. ``kind`` is ``embedder`` or
    ``cross-encoder``.
    """

    root: Path
    modules: tuple[Module, ...]
    files: tuple[str, ...]
    configs: Mapping[str, Any]
    kind: str = EMBEDDER

    def module_at(self, path: str) -> Module | None:
        """Return the module whose sub-folder this is."""
        return next((m for m in self.modules if m.path == path), None)


def config_kind(relative: str, modules: tuple[Module, ...]) -> str | None:
    """Say which kind of config a file is, or None where its bytes count as they are.

    One of ``modules``, ``model``, ``bert``, ``tokenizer``, ``json``, ``query_adapter``, or the
    class of the module whose ``config.json`` it is.
    """
    file = PurePosixPath(relative)
    folder = "" if str(file.parent) == "." else str(file.parent)
    if not folder and file.name == "modules.json":
        return "modules"
    if not folder and file.name == "config_sentence_transformers.json":
        return "model"
    if not folder and file.name == "query_adapter.json":
        return "query_adapter"
    if file.name in BERT_CONFIGS:
        return "bert"
    if file.name == "config.json":
        return next((m.cls for m in modules if m.path == folder), "Transformer")
    if file.name == "tokenizer_config.json":
        return "tokenizer"
    if file.name in ("special_tokens_map.json", "added_tokens.json"):
        return "json"
    return None


# --- the 5.x spelling ----------------------------------------------------------------------

#: In the order in which the pooled vectors are concatenated.
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
#: What a 5.x Transformer always does; 6.x writes it out, and 5.x stumbles over the keys.
_BERT_DEFAULTS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_SENTENCE_KEYS = ("module_input_name", "module_output_name")
#: Left behind by whoever saved the tokenizer: places on their disk, not properties of it.
_TOKENIZER_PLACES = (
    "is_local",
    "local_files_only",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "transformers_version",
    "trust_remote_code",
)


def pooling_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modes of a Pooling config, of either spelling."""
    spelled = config.get("pooling_mode")
    if spelled is not None:
        return (spelled,) if isinstance(spelled, str) else tuple(spelled)
    return tuple(m for m, flag in _POOLING_FLAGS.items() if config.get(flag)) or ("mean",)


def pooling_dims(config: Mapping[str, Any]) -> int:
    """Return the length of one pooled vector, before modes are concatenated."""
    return int(config.get("embedding_dimension", config.get("word_embedding_dimension", 0)))


def _modules_5x(document: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "type": _5X + MODULE_TYPES[entry["type"]]} for entry in document]


def _pooling_5x(document: dict[str, Any]) -> dict[str, Any]:
    modes = pooling_modes(document)
    if list(modes) != [mode for mode in _POOLING_FLAGS if mode in modes]:
        return document  # 5.x always concatenates in its own order
    flags = {flag: mode in modes for mode, flag in _POOLING_FLAGS.items()}
    return {
        "word_embedding_dimension": pooling_dims(document),
        **flags,
        "include_prompt": document.get("include_prompt", True),
    }


def _bert_5x(document: dict[str, Any]) -> dict[str, Any]:
    settings = {k: v for k, v in document.items() if v is not None and v != {}}
    if any(settings.get(key, value) != value for key, value in _BERT_DEFAULTS.items()):
        return settings  # something that 5.x cannot do: said in 6.x words
    return {k: v for k, v in settings.items() if k not in _BERT_DEFAULTS}


def _plain_names(document: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in document.items()
        if not (key in _SENTENCE_KEYS and value in (None, "sentence_embedding"))
    }


def _tokenizer_5x(document: dict[str, Any]) -> dict[str, Any]:
    settings = {k: v for k, v in document.items() if k not in _TOKENIZER_PLACES}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's name for what both 4.x and 5.x know by this one.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    return settings


_TO_5X: dict[str, Callable[[Any], Any]] = {
    "modules": _modules_5x,
    "bert": _bert_5x,
    "tokenizer": _tokenizer_5x,
    "Pooling": _pooling_5x,
    "Normalize": _plain_names,
    "Dense": _plain_names,
}


def to_5x(kind: str, document: Any) -> Any:
    """Return a config in the spelling that sentence-transformers 5.x and 6.x both read."""
    return _TO_5X[kind](document) if kind in _TO_5X else document


def rewrite_as_5x(folder: Folder) -> None:
    """Write the configs of a folder (one of our own copies) in the 5.x spelling."""
    for relative, document in folder.configs.items():
        kind = config_kind(relative, folder.modules)
        if folder.kind == CROSS_ENCODER and kind in ONLY_6X:
            (folder.root / relative).unlink()
            continue
        plain = to_5x(kind, document) if kind else document
        if plain != document:
            text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
            (folder.root / relative).write_text(text, encoding="utf-8")


# --- what of a config counts ---------------------------------------------------------------


def _modules_core(document: list[dict[str, Any]]) -> Any:
    return [
        [MODULE_TYPES[entry["type"]], entry["path"], entry.get("kwargs") or []]
        for entry in document
    ]


def _model_core(document: dict[str, Any]) -> Any:
    return {
        "prompts": {k: v for k, v in (document.get("prompts") or {}).items() if v},
        "default_prompt_name": document.get("default_prompt_name"),
        "truncate_dim": document.get("truncate_dim"),
    }


def _bert_core(document: dict[str, Any]) -> Any:
    return {k: v for k, v in document.items() if not (k == "do_lower_case" and not v)}


def _transformer_core(document: dict[str, Any]) -> Any:
    volatile = ("_name_or_path", "name_or_path", "transformers_version", "_commit_hash")
    return {k: v for k, v in document.items() if k not in volatile}


_CORE: dict[str, Callable[[Any], Any]] = {
    "modules": _modules_core,
    "model": _model_core,
    "bert": _bert_core,
    "Transformer": _transformer_core,
}


def canonical(kind: str, document: Any) -> bytes | None:
    """Return the part of a config that the vectors depend on, as bytes; None if there is none.

    White space, key order, the spelling, library versions and paths on the disk of whoever saved
    the folder are gone from it.
    """
    core = to_5x(kind, document)
    core = _CORE[kind](core) if kind in _CORE else core
    if not core or core == {"prompts": {}, "default_prompt_name": None, "truncate_dim": None}:
        return None
    return json.dumps(core, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
