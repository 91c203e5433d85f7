"""What a config of a model folder may say. `trust` applies these to every config it finds.

Configs of sentence-transformers itself are held to a list of allowed keys. Those of transformers
(``config.json``, ``tokenizer_config.json``) have keys of their own for each architecture, so they
are searched at every depth for the keys that reach outside the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lancedb_ft.arguments import is_whole
from lancedb_ft.store.layout import MODULE_TYPES
from lancedb_ft.store.query_adapter import check_adapter_config

__all__ = ["check_config", "check_modules", "is_activation", "reaching", "unknown_keys"]

#: A sub-folder of a module: one plain name, so that no path leads out of the folder.
_SUBFOLDER = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")
#: Activations a Dense may name: classes of torch.nn without arguments and without side effects.
_ACTIVATION = re.compile(
    r"^torch\.nn\.(modules\.(activation|linear)\.)?"
    r"(Tanh|Identity|ReLU|ReLU6|LeakyReLU|GELU|SiLU|ELU|SELU|CELU|Sigmoid|LogSigmoid|Mish|Softplus"
    r"|Softsign|Hardtanh|Hardswish|Hardsigmoid)$"
)
_ATTENTION = (
    *("eager", "sdpa", "flex_attention"),
    *("flash_attention_2", "flash_attention_3", "flash_attention_4"),
)
#: Keys that make transformers import, download or unpickle something, and what each would do.
_REACHING_KEYS: dict[str, str] = {
    "auto_map": "names Python classes that the folder brings along",
    "custom_pipelines": "names Python classes that the folder brings along",
    "custom_generate": "names Python code that the folder brings along",
    "trust_remote_code": "asks for code from the folder to be run",
    "code_revision": "asks for code from the Hub",
    "use_safetensors": "chooses how the weights are read",
    "weights_only": "chooses how pickles are read",
    "transformers_weights": "chooses another file of weights",
    "gguf_file": "chooses another file of weights",
    "base_model_name_or_path": "loads another model",
    "tokenizer_name_or_path": "loads the tokenizer from another place",
    "quantization_config": "hands the weights to another library",
    "kernel_config": "downloads compiled kernels",
    "use_kernels": "downloads compiled kernels",
    "allow_all_kernels": "downloads compiled kernels",
    "backbone": "loads another model",
    "use_timm_backbone": "loads another model",
    "use_pretrained_backbone": "loads another model",
    "init_inputs": "passes positional arguments to the tokenizer, such as files",
}
#: Here the value False is what would be wrong.
_MUST_NOT_STAND = ("use_safetensors", "weights_only")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


def _every_key(document: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield str(key), value
            yield from _every_key(value)
    elif isinstance(document, list):
        for value in document:
            yield from _every_key(value)


def _names_a_kernel(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else [value]
    return any(v is not None and v not in _ATTENTION for v in values)


def reaching(document: Any) -> str | None:
    """Say what in a config of transformers reaches outside the data."""
    for key, value in _every_key(document):
        name = key.strip("_").removesuffix("_internal")
        if name in _IMPLEMENTATIONS and _names_a_kernel(value):
            # A name with a slash is a repository of compiled kernels, downloaded and run.
            return f"{key!r} is {value!r}, not one of {', '.join(_ATTENTION)}"
        if name in _MUST_NOT_STAND or (name in _REACHING_KEYS and value):
            return f"{key!r} {_REACHING_KEYS[name]}"
    return None


def unknown_keys(document: Mapping[str, Any], allowed: tuple[str, ...]) -> str | None:
    """Say which key a config of sentence-transformers has that it may not have."""
    strange = sorted(set(document) - set(allowed))
    if strange:
        return f"{strange[0]!r} is not a setting it may have ({', '.join(allowed)})"
    return None


def is_activation(name: Any) -> bool:
    """Say whether this is the name of an activation of torch.nn."""
    return isinstance(name, str) and _ACTIVATION.fullmatch(name) is not None


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


# --- sentence-transformers' own configs ----------------------------------------------------

_BERT_KEYS = (
    *("max_seq_length", "do_lower_case", "transformer_task", "modality_config"),
    *("module_output_name", "processing_kwargs", "unpad_inputs"),
    *("query_length", "document_length", "query_expansion"),
)
#: Arguments that a config may pass on to transformers, by the key they stand under.
_PASSED_ON: dict[str, tuple[str, ...]] = {
    "model_args": ("dtype", "torch_dtype", "attn_implementation", "add_pooling_layer"),
    "tokenizer_args": ("model_max_length", "padding_side", "truncation_side"),
    "config_args": ("use_cache",),
}
for _new, _old in (
    ("model_kwargs", "model_args"),
    ("processor_kwargs", "tokenizer_args"),
    ("config_kwargs", "config_args"),
):
    _PASSED_ON[_new] = _PASSED_ON[_old]


def _check_bert(document: Mapping[str, Any]) -> str | None:
    return (
        unknown_keys(document, (*_BERT_KEYS, *_PASSED_ON))
        or _check_passed_on(document)
        or _check_task(document)
        or _check_processing(document.get("processing_kwargs") or {})
    )


def _check_passed_on(document: Mapping[str, Any]) -> str | None:
    for key, allowed in _PASSED_ON.items():
        passed = document.get(key) or {}
        if not isinstance(passed, Mapping):
            return f"{key!r} is not an object"
        # Older versions wrote trust_remote_code=false; sentence-transformers drops it either way.
        named = {k: v for k, v in passed.items() if not (k == "trust_remote_code" and not v)}
        if reason := unknown_keys(named, allowed) or reaching(named):
            return f"in {key!r}: {reason}"
        if not all(_is_plain(value) for value in named.values()):
            return f"{key!r} holds more than plain values"
    return None


def _check_task(document: Mapping[str, Any]) -> str | None:
    task = document.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        return f"'transformer_task' is {task!r}; a text embedding is 'feature-extraction'"
    if "modality_config" not in document:
        return None
    modalities = document["modality_config"]
    if not isinstance(modalities, Mapping) or set(modalities) != {"text"}:
        return "'modality_config' is not for text alone"
    text = modalities["text"]
    # ``method`` is looked up on the model and called with the tokens: any method would be.
    if not isinstance(text, Mapping) or text.get("method") != "forward":
        return "'modality_config' calls another method of the model than 'forward'"
    if not all(_is_plain(value) for value in text.values()):
        return "'modality_config' holds more than plain values"
    return None


def _check_processing(settings: Any) -> str | None:
    if not isinstance(settings, Mapping):
        return "'processing_kwargs' is not an object"
    if reason := unknown_keys(settings, ("common", "text")):
        return f"in 'processing_kwargs': {reason}"
    for part in settings.values():
        if not isinstance(part, Mapping) or not all(_is_plain(v) for v in part.values()):
            return "'processing_kwargs' holds more than plain values"
    return None


def _check_model(document: Mapping[str, Any]) -> str | None:
    kind = document.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        return f"it is a {kind}, not a SentenceTransformer"
    prompts = document.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(p, str) for p in prompts.values()):
        return "'prompts' is not an object of texts"
    cut = document.get("truncate_dim")
    if cut is not None and not is_whole(cut, 1):
        return f"'truncate_dim' is {cut!r}, not a number of dimensions"
    return reaching({k: v for k, v in document.items() if k != "prompts"})


def _check_dense(document: Mapping[str, Any]) -> str | None:
    keys = ("in_features", "out_features", "bias", "activation_function", "use_residual")
    if reason := unknown_keys(document, (*keys, "module_input_name", "module_output_name")):
        return reason
    activation = document.get("activation_function", "torch.nn.Tanh")
    if not is_activation(activation):
        return f"'activation_function' is {activation!r}, which is not an activation of torch.nn"
    return None if is_whole(document.get("out_features"), 1) else "'out_features' is no number"


def _check_pooling(document: Mapping[str, Any]) -> str | None:
    flags = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
    legacy = (*flags, "weightedmean_tokens", "lasttoken")
    reason = unknown_keys(
        document,
        (
            *("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"),
            *(f"pooling_mode_{flag}" for flag in legacy),
        ),
    )
    if reason:
        return reason
    dims = document.get("embedding_dimension", document.get("word_embedding_dimension"))
    if not is_whole(dims, 1):
        return "'embedding_dimension' is no number"
    modes = document.get("pooling_mode") or []
    if not isinstance(modes, (str, list)) or not all(isinstance(mode, str) for mode in modes):
        return "'pooling_mode' is not the name of one"
    return None


def _check_plain(*keys: str) -> Callable[[Mapping[str, Any]], str | None]:
    def check(document: Mapping[str, Any]) -> str | None:
        if reason := unknown_keys(document, keys):
            return reason
        return None if all(map(_is_plain, document.values())) else "it holds more than plain values"

    return check


_CHECKS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "model": _check_model,
    "bert": _check_bert,
    "tokenizer": reaching,
    "json": lambda document: None,  # tokens and numbers; a token may well be called "auto_map"
    "Transformer": reaching,
    "StaticEmbedding": reaching,
    "Dense": _check_dense,
    "Pooling": _check_pooling,
    "Normalize": _check_plain("module_input_name", "module_output_name"),
    "LayerNorm": _check_plain("dimension"),
    "Dropout": _check_plain("dropout"),
    "query_adapter": check_adapter_config,
}


def check_config(
    kind: str,
    document: Any,
    special: Mapping[str, Callable[[Mapping[str, Any]], str | None]] | None = None,
) -> str | None:
    """Say why a config is refused, or None.

    Parameters
    ----------
    kind
        What `lancedb_ft.store.layout.config_kind` says of the file.
    document
        The parsed JSON.
    special
        Checks that stand in for the usual ones, by kind.
    """
    if not isinstance(document, Mapping):
        return "it is not a JSON object"
    return {**_CHECKS, **(special or {})}[kind](document)


def check_modules(document: Any) -> str | None:
    """Say why a ``modules.json`` is refused, or None."""
    if not isinstance(document, list) or not document:
        return "it is not a list of modules"
    paths = []
    for entry in document:
        if reason := _check_module(entry):
            return reason
        paths.append(entry["path"])
    if len(set(paths)) != len(paths):
        return "two modules share one sub-folder"
    first = MODULE_TYPES[document[0]["type"]]
    if first not in ("Transformer", "StaticEmbedding"):
        return f"the first module is {first}, which cannot read text"
    return None


def _check_module(entry: Any) -> str | None:
    if not isinstance(entry, Mapping):
        return "a module is not an object"
    if reason := unknown_keys(entry, ("idx", "name", "path", "type", "kwargs")):
        return reason
    kind, path, extra = entry.get("type"), entry.get("path"), entry.get("kwargs") or []
    if kind not in MODULE_TYPES:
        names = ", ".join(sorted(set(MODULE_TYPES.values())))
        return f"the module type {kind!r} is not one of sentence-transformers' {names}"
    if not isinstance(path, str) or (path and not _SUBFOLDER.fullmatch(path)):
        return f"the module path {path!r} is not a plain sub-folder"
    if not isinstance(extra, list) or not all(isinstance(name, str) for name in extra):
        return "'kwargs' of a module is not a list of names"
    return None
