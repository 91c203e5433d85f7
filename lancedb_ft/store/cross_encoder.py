"""Cross-encoders in the store: how such a folder is told from an embedder's, and what it may say.

sentence-transformers 5.x keeps a cross-encoder as a plain transformers folder whose ``config.json``
names a network ``...ForSequenceClassification``; that is how the store keeps it, too. Version 6
writes three further configs, which say nothing that such a folder does not say; they are accepted
where they say just that, and are left out of the store's copy and of the fingerprint.

Closed here, beside what `lancedb_ft.store.trust` lists: ``activation_fn``, of either spelling, is
imported and called by sentence-transformers whenever it begins with ``torch.``; so it must name an
activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lancedb_ft.store.layout import CROSS_ENCODER, EMBEDDER, Module
from lancedb_ft.store.rules import is_activation, reaching, unknown_keys

__all__ = ["CHECKS", "check_modules_of", "kind_of"]

_HEAD = "ForSequenceClassification"
_TASK = "sequence-classification"
_MODEL_KEYS = (
    *("__version__", "activation_fn", "default_prompt_name"),
    *("keep_in_fp32_modules", "model_type", "prompts"),
)
_LABELS_OF_TRANSFORMERS = 2  # where a config does not say how many


def kind_of(modules_json: Any, model_json: Any, config_json: Any) -> str:
    """Say what kind of model a folder holds: ``embedder`` or ``cross-encoder``.

    Parameters
    ----------
    modules_json, model_json, config_json
        The parsed ``modules.json``, ``config_sentence_transformers.json`` and ``config.json`` at
        its root, None where there is no such file. Nothing of them was checked yet.
    """
    if modules_json is not None:
        said = model_json.get("model_type") if isinstance(model_json, Mapping) else None
        return CROSS_ENCODER if said == "CrossEncoder" else EMBEDDER
    return CROSS_ENCODER if _has_head(config_json) else EMBEDDER


def _has_head(config: Any) -> bool:
    names = config.get("architectures") if isinstance(config, Mapping) else None
    return (
        isinstance(names, list)
        and len(names) == 1
        and isinstance(names[0], str)
        and names[0].endswith(_HEAD)
    )


def check_modules_of(modules: tuple[Module, ...]) -> str | None:
    """Say why the modules are not those of a cross-encoder, or None."""
    if modules == (Module("Transformer", ""),):
        return None
    listed = ", ".join(f"{module.cls} at {module.path!r}" for module in modules)
    return f"it is a CrossEncoder, and modules.json has {listed}; one Transformer is accepted"


def _check_model(document: Mapping[str, Any]) -> str | None:
    if reason := unknown_keys(document, _MODEL_KEYS):
        return reason
    if not is_activation(document.get("activation_fn", "torch.nn.Sigmoid")):
        return f"'activation_fn' is {document['activation_fn']!r}, not an activation of torch.nn"
    prompts = document.get("prompts") or {}
    if not isinstance(prompts, Mapping) or any(prompts.values()):
        return "'prompts' are not empty; a cross-encoder is used without"
    for key in ("default_prompt_name", "keep_in_fp32_modules"):
        if document.get(key):
            return f"{key!r} is set, which is not supported for a cross-encoder"
    return None


def _check_bert(document: Mapping[str, Any]) -> str | None:
    keys = ("transformer_task", "modality_config", "module_output_name")
    if reason := unknown_keys(document, keys):
        return reason
    if document.get("transformer_task", _TASK) != _TASK:
        return f"'transformer_task' is {document['transformer_task']!r}, not {_TASK!r}"
    logits = {"text": {"method": "forward", "method_output_name": "logits"}}
    # ``method`` is looked up on the model and called.
    if document.get("modality_config", logits) != logits:
        return "'modality_config' takes something else from the model than 'logits'"
    if document.get("module_output_name", "scores") != "scores":
        return "'module_output_name' is not 'scores'"
    return None


def _check_transformer(document: Mapping[str, Any]) -> str | None:
    if reason := reaching(document):
        return reason
    if not _has_head(document):
        return f"'architectures' is {document.get('architectures')!r}, not one network {_HEAD}"
    labels = document.get("id2label")
    n_labels = len(labels) if isinstance(labels, Mapping) else document.get("num_labels")
    if (n_labels := n_labels if n_labels is not None else _LABELS_OF_TRANSFORMERS) != 1:
        return f"it gives {n_labels} scores, and a reranker gives one"
    own = document.get("sentence_transformers") or {}
    if not isinstance(own, Mapping) or unknown_keys(own, ("activation_fn", "version")):
        return "'sentence_transformers' holds more than 'activation_fn' and 'version'"
    named = [own.get("activation_fn"), document.get("sbert_ce_default_activation_function")]
    for name in named:
        if name is not None and not is_activation(name):
            return f"the activation {name!r} is not one of torch.nn"
    return None


#: The checks of configs that differ from those of an embedder.
CHECKS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "model": _check_model,
    "bert": _check_bert,
    "Transformer": _check_transformer,
}
