"""Several processes that train one model: ``accelerate launch -m lancedb_ft train ...``.

Every process reads the data and computes its own batches. The first one alone evaluates, writes
and prints; what it decides, or the error that stops it, is told to the others. Gradients are
averaged here and not by DistributedDataParallel: a loss may then run the model as often as it
likes before a step, in chunks or from a cache. The processes must share a file system.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lancedb_ft.encoder import resolve_device
from lancedb_ft.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ALONE", "Processes", "join_processes", "told_rank"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Parameters
    ----------
    rank
        Of this one, from 0.
    count
        How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one evaluates and writes."""
        return self.rank == 0

    def first(self, work: Callable[[], _T]) -> _T:
        """Have the first process do something; return its result, or raise its error, in all."""
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error if _survives(error) else TrainingError(repr(error))
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: _T = outcome[0]
        return result

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()

    def average(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        if self.count == 1:
            return value
        import torch
        from accelerate import PartialState
        from torch import distributed

        total = torch.tensor(value, dtype=torch.float64, device=PartialState().device)
        distributed.all_reduce(total)
        return float(total) / self.count

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the gradients of a model by their mean over the processes."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not grads:
            return
        # One message: a model has a hundred tensors, and each message has its own wait.
        flat = torch.cat([grad.reshape(-1).float() for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()


#: A process that no launcher started.
ALONE = Processes()


def join_processes(device: str | None = None) -> Processes:
    """Join the processes that a launcher started; just this one where none did.

    Parameters
    ----------
    device
        See `lancedb_ft.encoder.resolve_device`; on CPUs they talk over gloo.
    """
    if _told("WORLD_SIZE", 1) < 2:
        return ALONE
    from accelerate import PartialState

    # Before the process has its place among the others, every one of them would take the first GPU.
    kind = resolve_device(device).partition(":")[0]
    state = PartialState(cpu=kind == "cpu")
    return Processes(int(state.process_index), int(state.num_processes))


def told_rank() -> int:
    """Return the rank that a launcher gave this process; 0 where none did."""
    return _told("RANK", 0) if _told("WORLD_SIZE", 1) > 1 else 0


def _told(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def _survives(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign error's own pickling raises
        return False
    return True
