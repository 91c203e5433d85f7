"""What may be loaded: the check of a model folder before anything of it is used.

A model folder is data from somebody else, and sentence-transformers 6.2 / transformers 5.23 do what
its configs say. Read in their source, and closed here, with ``trust_remote_code=False``:

- ``modules.json``: every ``type`` that begins with ``sentence_transformers.`` is imported, whatever
  it is, and the ``load`` of what the last name stands for is called with the folder. That may be
  any attribute: ``...base.modules.module.torch`` really calls ``torch.load(folder, ...)``. Router,
  Asym and WordEmbeddings import further class names from configs of their own. So only seven
  module types are accepted, by their full names. (``path`` is checked upstream in 6.2; here it
  must be one plain name.)
- ``activation_function`` of a Dense: whatever begins with ``torch.`` is *imported* before its class
  is checked, and any class of torch.nn may then be built. Accepted: the activations.
- ``sentence_bert_config.json``: ``model_args`` / ``model_kwargs`` go to ``from_pretrained``, so
  that ``use_safetensors: false``, ``weights_only: false`` and ``dtype: auto``, with no dtype in
  ``config.json``, unpickle ``pytorch_model.bin`` freely: tried, and its code ran;
  ``config_kwargs`` and ``processor_kwargs`` likewise; ``tokenizer_name_or_path`` loads from
  anywhere; ``modality_config.text.method`` is looked up on the model and called;
  ``transformer_task`` and ``backend`` choose other loaders.
- ``config.json``: ``auto_map`` stops with an error, or asks at the terminal;
  ``attn_implementation`` / ``experts_implementation`` with a slash download and run compiled
  kernels; ``quantization_config`` hands the file to other libraries; ``transformers_weights`` and
  the ``weight_map`` of an index name other files; ``backbone`` loads another model.
- ``adapter_config.json``: its mere presence loads the base model it names, from anywhere.
- ``pytorch_model.bin``: read when there is no safetensors file, also by Dense, LayerNorm and
  StaticEmbedding. ``weights_only`` unpickling has had holes of its own.
- Links: a file may be a link to any file of this machine, and a copy would carry that away.
- A safetensors file that lacks a tensor leaves random weights behind and a line in the log. That
  needs the model built to be seen: the encoder's loader checks it.

Cross-encoders have rules of their own beside these: see `lancedb_ft.store.cross_encoder`.

So: names of files, module types and configs are allow-listed. A file that sentence-transformers
never reads (README.md, ``onnx/``, ``openvino/``) is passed over: not hashed, copied or loaded.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lancedb_ft.errors import ModelKindError, ModelNotFoundError, UnsafeModelError
from lancedb_ft.store import cross_encoder
from lancedb_ft.store.layout import (
    BERT_CONFIGS,
    CROSS_ENCODER,
    MODULE_TYPES,
    SHARD,
    Folder,
    Module,
    config_kind,
)
from lancedb_ft.store.query_adapter import ADAPTER_FILES, CONFIG, WEIGHTS, check_adapter_weights
from lancedb_ft.store.rules import check_config, check_modules
from lancedb_ft.store.safetensors_header import read_header

__all__ = ["HUB_PATTERNS", "check_folder", "inspect_folder"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "unigram.json"),
    # SentencePiece models: protocol buffers, data only.
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "sentencepiece.model"),
)
_ROOT = ("modules.json", "config_sentence_transformers.json", "config.json", *ADAPTER_FILES)
_OF_MODULE: dict[str, tuple[str, ...]] = {
    "Transformer": ("config.json", *BERT_CONFIGS, *_TOKENIZER, *_WEIGHTS),
    "StaticEmbedding": ("config.json", *_TOKENIZER, "model.safetensors"),
    "Dense": ("config.json", "model.safetensors"),
    "LayerNorm": ("config.json", "model.safetensors"),
    "Pooling": ("config.json",),
    "Normalize": ("config.json",),
    "Dropout": ("config.json",),
}
#: Nothing below these is ever read by what is loaded.
_PASSED_OVER_FOLDERS = ("onnx", "openvino", "eval", ".cache", ".git")
_PASSED_OVER = re.compile(
    r"^(README\.md|\.gitattributes|\.gitignore|\.DS_Store|data_config\.json|generation_config\.json"
    r"|chat_template\.jinja|(LICENSE|LICENCE|NOTICE)(\.txt|\.md)?"
    r"|[\w.-]+\.(md|csv|png|jpe?g|svg|pdf))$"
)
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npy", ".npz", ".dill")
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".pyd", ".sh", ".ipynb", ".exe")
_OTHER_WEIGHTS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite", ".mlmodel")
_MAX_CONFIG_BYTES = 20_000_000
_MAX_FILES = 1000

#: What is fetched from the Hub: the files above, and nothing else.
HUB_PATTERNS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [*_ROOT, *(name for names in _OF_MODULE.values() for name in names)]
        + ["model-*-of-*.safetensors"]
        + [f"[0-9]*_*/{name}" for name in ("config.json", "model.safetensors", *_TOKENIZER)]
        + [f"[0-9]*_*/{name}" for name in BERT_CONFIGS]
    )
)


def check_folder(path: str | Path, *, kind: str | None = None) -> None:
    """Check that loading a model folder can only read data.

    Nothing is imported, unpickled or built for it.

    Parameters
    ----------
    path
        A folder in sentence-transformers layout, or a plain transformers folder.
    kind
        What it must be a model of: ``embedder`` or ``cross-encoder``; None for either.

    Raises
    ------
    ModelKindError
        It is of the other kind.
    ModelNotFoundError
        There is no such folder, or it has neither ``modules.json`` nor ``config.json``.
    UnsafeModelError
        It holds something else than allow-listed data; the reason says what.
    """
    found = inspect_folder(path).kind
    if kind is not None and found != kind:
        raise ModelKindError(str(path), found=found, expected=kind)


def inspect_folder(path: str | Path) -> Folder:
    """Check a folder as `check_folder` does, and return what it holds."""
    root = Path(path).expanduser().resolve()
    if not (root / "modules.json").is_file() and not (root / "config.json").is_file():
        raise ModelNotFoundError(str(path))
    found = tuple(sorted(_walk(root)))
    configs: dict[str, Any] = {}
    modules = _modules(root, found, configs)
    files = tuple(name for name in found if _is_used(root, name, modules))
    of = _kind(root, found, modules, configs.get("modules.json"))
    special = cross_encoder.CHECKS if of == CROSS_ENCODER else None
    for name in files:
        kind = config_kind(name, modules)
        if kind is not None and name not in configs:
            configs[name] = document = _read_json(root, name)
            if reason := check_config(kind, document, special):
                raise _refused(root, f"in {name}, {reason}.")
    for module in modules:
        _check_module_files(root, module, files)
    _check_query_adapter(root, files, configs, of)
    return Folder(root, modules, files, configs, of)


def _refused(root: Path, reason: str) -> UnsafeModelError:
    return UnsafeModelError(str(root), reason=reason)


# --- which files there are -----------------------------------------------------------------


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative names of all files, after checking that they are plain files in here."""
    n_files = 0
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place)
        if here == root:
            folders[:] = [name for name in folders if name not in _PASSED_OVER_FOLDERS]
        for name in folders:
            if (here / name).is_symlink():
                raise _refused(root, f"{_relative(root, here / name)} is a link to a folder.")
        for name in names:
            _check_plain_file(root, here / name)
            yield _relative(root, here / name)
            n_files += 1
            if n_files > _MAX_FILES:
                raise _refused(root, f"it holds more than {_MAX_FILES} files: not a model.")


def _relative(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _check_plain_file(root: Path, file: Path) -> None:
    target = file.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        # The cache of huggingface_hub: snapshots/<commit>/file -> ../../blobs/<hash>.
        homes.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(home) for home in homes):
        raise _refused(root, f"{_relative(root, file)} is a link that leaves the folder.")
    try:
        mode = target.stat().st_mode
    except OSError as error:
        raise _refused(root, f"{_relative(root, file)} cannot be read ({error}).") from error
    if not stat.S_ISREG(mode):
        raise _refused(root, f"{_relative(root, file)} is not a plain file.")


def _is_used(root: Path, relative: str, modules: tuple[Module, ...]) -> bool:
    """Say whether a file makes the vectors; raise if it is neither that nor harmless."""
    file = PurePosixPath(relative)
    folder = "" if str(file.parent) == "." else str(file.parent)
    module = next((m for m in modules if m.path == folder), None)
    allowed = _OF_MODULE[module.cls] if module else ()
    if not folder:
        allowed = (*allowed, *_ROOT)
    if file.name in allowed:
        return True
    if module and module.cls == "Transformer" and SHARD.fullmatch(file.name):
        return True
    if _PASSED_OVER.fullmatch(file.name):
        return False
    raise _refused(root, f"{relative} {_what_is_wrong_with(file)}")


def _what_is_wrong_with(file: PurePosixPath) -> str:
    suffix = file.suffix.lower()
    if suffix in _PICKLED or file.name.startswith(("optimizer", "scheduler", "rng_state")):
        return (
            "may hold a pickle, and reading a pickle can run any code. If model.safetensors stands "
            "beside it, delete it; if not, convert the model on a machine where that does not "
            "matter: SentenceTransformer(folder).save_pretrained(new_folder)."
        )
    if suffix in _CODE:
        return "is program code."
    if suffix in _OTHER_WEIGHTS:
        return "holds weights in a format that is not loaded here; delete it."
    if file.name == "adapter_config.json":
        return "names another model to load. Merge the adapter into its base model first."
    if str(file.parent) != ".":
        return "is not a file of a module that modules.json names; delete it."
    return "is not a file that sentence-transformers' own text modules need; delete it."


# --- what they say -------------------------------------------------------------------------


def _read_json(root: Path, relative: str) -> Any:
    file = root / relative
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise _refused(root, f"{relative} is larger than {_MAX_CONFIG_BYTES} bytes.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refused(root, f"{relative} is not JSON ({error}).") from error


def _modules(root: Path, found: tuple[str, ...], configs: dict[str, Any]) -> tuple[Module, ...]:
    if "modules.json" not in found:
        return (Module("Transformer", ""),)  # a transformers folder: pooled by its mean
    document = _read_json(root, "modules.json")
    if reason := check_modules(document):
        raise _refused(root, f"in modules.json, {reason}.")
    configs["modules.json"] = document
    return tuple(Module(MODULE_TYPES[entry["type"]], entry["path"]) for entry in document)


def _kind(root: Path, found: tuple[str, ...], modules: tuple[Module, ...], listed: Any) -> str:
    names = ("config_sentence_transformers.json", "config.json")
    model, config = (_read_json(root, name) if name in found else None for name in names)
    kind = cross_encoder.kind_of(listed, model, config)
    if kind == CROSS_ENCODER and (reason := cross_encoder.check_modules_of(modules)):
        raise _refused(root, f"in {names[0]}, {reason}.")
    return kind


def _check_module_files(root: Path, module: Module, files: tuple[str, ...]) -> None:
    prefix = f"{module.path}/" if module.path else ""
    if module.cls not in ("Normalize", "StaticEmbedding") and f"{prefix}config.json" not in files:
        raise _refused(root, f"{prefix}config.json of the module {module.cls} is missing.")
    if module.cls in ("Normalize", "Pooling", "Dropout"):
        return
    weights = [n for n in files if n.startswith(prefix) and n.endswith(".safetensors")]
    weights = [n for n in weights if "/" not in n[len(prefix) :] and n != WEIGHTS]
    if not weights:
        raise _refused(root, f"{prefix}model.safetensors, the weights of {module.cls}, is missing.")
    for name in weights:
        try:
            read_header(root / name)
        except ValueError as error:
            raise _refused(root, f"{name}: {error}.") from error
    if f"{prefix}model.safetensors.index.json" in files:
        _check_index(root, prefix, weights)


def _check_query_adapter(
    root: Path, files: tuple[str, ...], configs: dict[str, Any], of: str
) -> None:
    found = [name for name in ADAPTER_FILES if name in files]
    if not found:
        return
    if of == CROSS_ENCODER:
        raise _refused(root, f"{found[0]} has no place beside a cross-encoder.")
    if len(found) == 1:
        raise _refused(root, f"of {CONFIG} and {WEIGHTS}, only {found[0]} is there.")
    if reason := check_adapter_weights(root / WEIGHTS, configs[CONFIG]):
        raise _refused(root, f"{WEIGHTS}: {reason}.")


def _check_index(root: Path, prefix: str, weights: list[str]) -> None:
    name = f"{prefix}model.safetensors.index.json"
    document = _read_json(root, name)
    parts = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise _refused(root, f"in {name}, there is no 'weight_map'.")
    for part in parts.values():
        if not isinstance(part, str) or prefix + part not in weights:
            raise _refused(root, f"{name} names {part!r}, which is not a part of these weights.")
