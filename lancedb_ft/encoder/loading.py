"""The one place where a model folder becomes a running model.

Loading is a trust boundary. A folder's own configuration can turn off safe loading even with
``trust_remote_code=False``; the arguments passed here override it, and what the folder may contain
at all is checked first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError, MissingExtraError, StoreError, UnsafeModelError
from lancedb_ft.store import check_folder
from lancedb_ft.store.quiet import without_progress_bars

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["load_sentence_transformer", "require_torch", "resolve_device"]

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def require_torch() -> Any:
    """Import torch.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "torch", extra="encode", purpose="Running an embedding model"
        ) from error
    return torch


def _require_sentence_transformers() -> type[SentenceTransformer]:
    require_torch()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            "sentence-transformers", extra="encode", purpose="Running an embedding model"
        ) from error
    return SentenceTransformer


def resolve_device(device: str | None = None) -> str:
    """Return the device to run on.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu``; None or ``auto`` for the best there is.

    Raises
    ------
    InputError
        There is no such device on this machine.
    """
    torch = require_torch()
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return f"cuda:{torch.cuda.current_device()}"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if not isinstance(device, str):
        raise InputError(f"device is {device!r}; it must be a text such as 'cpu' or 'cuda:0'.")
    kind, _, number = device.partition(":")
    if kind not in _DEVICES or not (number == "" or number.isdigit()):
        raise InputError(
            f"device is {device!r}; it must be 'auto' or one of {', '.join(_DEVICES)}, with a "
            "number where there are several: 'cuda:1'."
        )
    if kind == "cpu":
        return "cpu"
    there = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if hasattr(torch, "xpu") else 0,
    }[kind]
    if int(number or 0) >= there:
        raise InputError(
            f"device is {device!r}; torch sees {there} {kind} devices here. Use device='auto'."
        )
    return f"{kind}:{number or 0}" if kind != "mps" else "mps"


def load_sentence_transformer(
    path: str | Path, *, device: str | None = None
) -> SentenceTransformer:
    """Load a model folder safely: no code of its own, no pickle, no network, no missing tensor.

    Parameters
    ----------
    path
        A local folder in sentence-transformers layout.
    device
        See `resolve_device`.

    Raises
    ------
    UnsafeModelError
        The folder contains what is not allowed, or its weights are incomplete: missing tensors
        would silently be random.
    ModelKindError
        It is a cross-encoder.
    StoreError
        It cannot be loaded for another reason.
    MissingExtraError
        torch or sentence-transformers is not installed.
    """
    path = str(path)
    check_folder(path, kind="embedder")
    where = resolve_device(device)
    sentence_transformer = _require_sentence_transformers()
    try:
        with without_progress_bars():
            model = sentence_transformer(
                path,
                device=where,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "weights_only": True},
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        # What transformers raises for a torn file, a wrong config or a shape that does not fit.
        raise StoreError(f"The model folder {path!r} cannot be loaded: {error}") from error
    _require_all_tensors(model, path)
    return model.eval()


def _require_all_tensors(model: SentenceTransformer, path: str) -> None:
    """Refuse a model with weights that did not come from its files.

    transformers fills a missing tensor with random numbers and says so in a log line only.
    sentence-transformers' own modules raise by themselves.
    """
    for module, folder in zip(model, _module_folders(path), strict=False):
        network = getattr(module, "auto_model", None)
        if network is None:
            continue
        missing = _missing_tensors(network, _tensor_names(folder))
        if not _reads_pooler(module):
            missing = [name for name in missing if not name.startswith("pooler.")]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise UnsafeModelError(
                path,
                reason=f"its weights lack {len(missing)} of the model's tensors ({shown}), which "
                "would be filled with random numbers.",
            )


def _module_folders(path: str) -> list[Path]:
    """Return the folder of each module, in order."""
    listing = Path(path) / "modules.json"
    if not listing.is_file():
        return [Path(path)]  # a plain transformers folder: the weights lie at its root
    entries = json.loads(listing.read_text("utf-8"))
    return [Path(path) / entry["path"] for entry in sorted(entries, key=lambda e: e["idx"])]


def _tensor_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="np") as tensors:
            names.update(tensors.keys())
    return names


def _missing_tensors(network: Any, names: set[str]) -> list[str]:
    """Return the parameters that neither the files name nor transformers marked as loaded.

    Names alone are not enough: transformers renames while it loads (``gamma`` to ``weight``, a
    prefix, fused layers) and ties weights. Its mark alone is not public. One of both suffices.
    """
    prefix = getattr(network, "base_model_prefix", "")
    known = names | {name.removeprefix(f"{prefix}.") for name in names}
    parameters = list(network.named_parameters(remove_duplicate=False))
    loaded = {
        parameter.data_ptr()
        for name, parameter in parameters
        if name in known or getattr(parameter, "_is_hf_initialized", False)
    }
    return sorted({name for name, p in parameters if p.data_ptr() not in loaded})


def _reads_pooler(module: Any) -> bool:
    """Say whether the module's output goes through the network's own pooler."""
    text = getattr(module, "modality_config", {}).get("text", {})
    output = text.get("method_output_name", "last_hidden_state")
    return "last_hidden_state" not in ((output,) if isinstance(output, str) else tuple(output))
