"""What is chosen where the user chose nothing, and why.

Every rule looks at the data, the model and the machine as they are, not at how busy they are: the
same call on the same machine always chooses the same, or a killed run could not be gone on with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lancedb_ft.train.compute import Compute
from lancedb_ft.train.config import EVALUATIONS_PER_EPOCH, TrainingConfig, default_learning_rate
from lancedb_ft.train.lora import RATE_FACTOR
from lancedb_ft.train.losses import CACHED_FORMS

__all__ = [
    "Choice",
    "Facts",
    "Network",
    "choose",
    "device_memory",
    "given_arguments",
    "read_network",
]

#: Rows from which a second pass over the data pays more often than it overfits, and from which
#: one pass is many steps already.
SECOND_EPOCH, ONE_EPOCH_AGAIN = 5_000, 100_000
#: Rows from which a batch is larger: a small set in large batches is too few steps.
BATCH_SIZES = {0: 32, 2_000: 64, 20_000: 128}
#: The smallest batch that is chosen; below it in-batch negatives teach too little.
SMALLEST_BATCH = 32
#: The share of the memory that the activations of a step may take.
MEMORY_SHARE = 0.4
#: Pairs from which one hard negative is mined for each, see `_negatives`.
MINED_FROM = 1_000
#: Evaluations in a row without a gain, after which a run of several epochs ends.
PATIENCE = 3
WARMUP = 0.1
#: Losses over scored pairs learn at half the rate. all-MiniLM-L6-v2, 672 pairs of summaries and
#: names in the standard library, Spearman on 360 others (one run each): base .640, at 1e-4 .685, at
#: 5e-5 .686, at 2e-5 .665; with 448 pairs whose scores say little about the text, base .476, at
#: 1e-4 .444, at 5e-5 .470, at 2e-5 .479.
HALF_RATE = ("cosent", "angle")


@dataclass(frozen=True)
class Choice:
    """One argument, its value, and why it has it."""

    argument: str
    value: Any
    why: str

    def to_dict(self) -> dict[str, Any]:
        """``{"argument", "value", "why"}``."""
        return {"argument": self.argument, "value": self.value, "why": self.why}


@dataclass(frozen=True)
class Network:
    """The size of a transformer; zeros for a model that is none."""

    layers: int = 0
    hidden: int = 0
    heads: int = 0

    def activation_bytes(self, tokens: int, *, precision: str) -> int:
        """Return what one text of that length keeps for the backward pass, in bytes.

        Korthikanti et al. (arXiv:2205.05198): in 16 bits 34 bytes a token and hidden unit, and 5 a
        token, token and head where attention is not fused. all-MiniLM-L6-v2 at 128 tokens on a CPU,
        MiB a pair: 30 by this in bfloat16 and 33 measured, 61 in float32 and 58 measured.
        """
        a_layer = tokens * (34 * self.hidden + 5 * self.heads * tokens)
        return self.layers * a_layer * (2 if precision == "float32" else 1)


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Parameters
    ----------
    n_rows
        Rows to train on, in all sets together.
    losses
        Names of the losses, one a set.
    dims
        Length of the model's vectors.
    network
        The size of the model.
    texts_per_row
        The largest number of texts in a row.
    tokens
        The longest text a step computes, in tokens.
    memory_bytes
        Of the device.
    compute
        Device and precision.
    metric
        The metric of the dev set.
    processes
        That train together.
    minable
        Rows are bare pairs, and negatives may be mined for them.
    """

    n_rows: int
    losses: Sequence[str]
    dims: int
    network: Network
    texts_per_row: int
    tokens: int
    memory_bytes: int
    compute: Compute
    metric: str
    processes: int = 1
    minable: bool = False

    def fits(self, batch_size: int) -> bool:
        """Say whether a step over so many rows stays within `MEMORY_SHARE` of the memory."""
        a_text = self.network.activation_bytes(self.tokens, precision=self.compute.precision)
        return batch_size * self.texts_per_row * a_text <= MEMORY_SHARE * self.memory_bytes


def given_arguments(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given of the arguments of `TrainingConfig`.

    None leaves an argument open, but for ``max_tokens``: there it is a value, the model's own
    limit.
    """
    return {n: value for n, value in asked.items() if value is not None or n == "max_tokens"}


def choose(asked: Mapping[str, Any], facts: Facts) -> tuple[TrainingConfig, list[Choice]]:
    """Return the complete arguments, and why each of them is what it is.

    Parameters
    ----------
    asked
        The arguments that were given, see `given_arguments`.
    facts
        What the choice depends on.
    """
    given = given_arguments(asked)
    found: dict[str, Choice] = {}

    def settle(argument: str, value: Any, why: str) -> Any:
        if argument in given:
            value, why = given[argument], "given"
        found[argument] = Choice(argument, value, why)
        return value

    negatives = settle("negatives", *_negatives(facts))
    facts = replace(facts, texts_per_row=facts.texts_per_row + (negatives if facts.minable else 0))
    settle("loss", _loss_names(facts.losses), "the usual one for this type of data")
    n_stages = given.get("curriculum")
    epochs = settle("epochs", *_epochs(facts.n_rows, n_stages))
    batch_size = settle("batch_size", *_batch_size(facts))
    cached, why = _cached(batch_size, facts)
    found["cached"] = Choice("cached", cached, why)
    rate, why = _learning_rate(facts, given.get("lora_rank"))
    settle("learning_rate", rate, why)
    settle("warmup", WARMUP, f"{WARMUP:.0%} of the steps; longer if the loss oscillates early")
    settle("early_stopping", *_early_stopping(epochs, n_stages))
    settle("metric", facts.metric, "the measure of this type of data")
    settle(
        "eval_steps", None, f"{EVALUATIONS_PER_EPOCH} dev evaluations an epoch, and the last step"
    )
    found["device"] = Choice(
        "device",
        facts.compute.device,
        f"computes in {facts.compute.precision}"
        + (f" on {facts.processes} processes" if facts.processes > 1 else ""),
    )
    chosen = {n: c.value for n, c in found.items() if n not in ("loss", "device")}
    config = TrainingConfig(**{**given, **chosen, "raise_warmup": "warmup" not in given})
    return config, list(found.values())


# --- rules ---------------------------------------------------------------------------------


def _loss_names(losses: Sequence[str]) -> Any:
    names = list(dict.fromkeys(losses))
    return names[0] if len(names) == 1 else names


def _negatives(facts: Facts) -> tuple[int, str]:
    if not facts.minable:
        return 0, "they are mined for bare pairs alone, with a loss that reads them"
    if facts.n_rows < MINED_FROM:
        return 0, f"{facts.n_rows:,} rows are too few to find some among"
    return 1, "what the base model ranks just below an answer teaches more than other documents"


def _epochs(n_rows: int, n_stages: int | None) -> tuple[int, str]:
    if n_stages is not None:
        return n_stages, f"one for each of {n_stages} stages of the curriculum"
    if n_rows < SECOND_EPOCH:
        return 1, f"{n_rows:,} rows are below {SECOND_EPOCH:,}: a second epoch mostly overfits"
    if n_rows >= ONE_EPOCH_AGAIN:
        return 1, f"{n_rows:,} rows are many steps already"
    return 2, f"{n_rows:,} rows are {SECOND_EPOCH:,} or more; early stopping ends it if 1 is enough"


def _batch_size(facts: Facts) -> tuple[int, str]:
    wanted = BATCH_SIZES[max(least for least in BATCH_SIZES if least <= facts.n_rows)]
    size = wanted
    while size > SMALLEST_BATCH and not facts.fits(size):
        size //= 2
    if size < wanted:
        return size, f"{wanted} for {facts.n_rows:,} rows, and {size} fit into memory"
    return size, f"usual for {facts.n_rows:,} rows, and it fits into memory"


def _cached(batch_size: int, facts: Facts) -> tuple[bool, str]:
    if facts.fits(batch_size):
        return False, f"a batch of {batch_size} fits into {facts.memory_bytes / 2**30:.0f} GiB"
    if not set(facts.losses) & set(CACHED_FORMS):
        return False, f"a batch of {batch_size} may not fit, and this loss has no cached form"
    return True, (
        f"a batch of {batch_size} does not fit into {facts.memory_bytes / 2**30:.0f} GiB: each "
        "text is computed twice instead"
    )


def _learning_rate(facts: Facts, lora_rank: int | None) -> tuple[float, str]:
    rate, why = default_learning_rate(facts.dims), f"for a model of {facts.dims} dimensions"
    if all(loss in HALF_RATE for loss in facts.losses):
        rate, why = rate / 2, f"half of what is usual {why}, as scored pairs need it"
    if lora_rank is None:
        return rate, why
    return rate * RATE_FACTOR, f"{RATE_FACTOR:.0f} times that of all weights: {why}"


def _early_stopping(epochs: int, n_stages: int | None) -> tuple[int | None, str]:
    if n_stages is not None:
        return None, "the hardest stage of a curriculum comes last"
    if epochs == 1:
        return None, "one epoch is run to its end"
    return PATIENCE, f"{PATIENCE} evaluations in a row without a gain end a run of {epochs} epochs"


# --- facts ---------------------------------------------------------------------------------


def read_network(folder: str | Path) -> Network:
    """Read the size of a transformer from its configuration; zeros where there is none."""
    for file in (Path(folder) / "config.json", *sorted(Path(folder).glob("*/config.json"))):
        try:
            config = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and "num_hidden_layers" in config:
            return Network(
                int(config["num_hidden_layers"]),
                int(config.get("hidden_size", 0)),
                int(config.get("num_attention_heads", 0)),
            )
    return Network()


def device_memory(device: str) -> int:
    """Return how many bytes a device has: of a GPU its own, else what this process may have."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if _has_sysconf() else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # another system, or "max"
            continue
    return min(limits, default=8 << 30)


def _has_sysconf() -> bool:
    return hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
