"""Adapters of low rank (LoRA): few weights are trained, and merged into the others on save.

W + B A * alpha / rank, with A and B of rank r beside a frozen W (Hu et al., 2021,
arXiv:2106.09685). What is saved is an ordinary model of the same size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["RATE_FACTOR", "add_lora", "merge_lora", "require_peft"]

#: A rank's update is scaled by alpha / rank; twice the rank is what most recipes use.
ALPHA_OVER_RANK = 2
#: How much higher the learning rate of adapters is than that of all weights (10 is what Schulman
#: et al., "LoRA Without Regret", 2025, found over many models and tasks).
RATE_FACTOR = 10.0


def require_peft() -> Any:
    """Import peft.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", extra="lora", purpose="Training adapters") from error
    return peft


def add_lora(model: SentenceTransformer, rank: int, *, seed: int) -> None:
    """Freeze a model, and put trainable adapters beside all linear layers of its transformer.

    The model gives the same vectors as before: B starts at 0.

    Parameters
    ----------
    rank
        Of the adapters, 1 or more.
    seed
        Of A.

    Raises
    ------
    InputError
        The model has no transformer.
    """
    import torch

    peft = require_peft()
    network = _network_of(model)
    model.requires_grad_(False)
    config = peft.LoraConfig(
        r=rank, lora_alpha=ALPHA_OVER_RANK * rank, target_modules="all-linear", lora_dropout=0.0
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, network)


def merge_lora(model: SentenceTransformer) -> None:
    """Add the adapters to the weights they stand beside, and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = _network_of(model)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, layer.get_base_layer())
    vars(network).pop("peft_config", None)  # else it would be written into the config
    model.requires_grad_(True)


def _network_of(model: SentenceTransformer) -> Any:
    for module in model:
        network = getattr(module, "auto_model", None)
        if network is not None:
            return network
    raise InputError(
        "lora_rank needs a model with a transformer, and this one has none. Leave lora_rank out."
    )
