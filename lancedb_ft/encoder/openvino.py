"""A model's network run by OpenVINO instead of torch: on CPUs without AMX it can be faster.

The torch module is traced and converted here, without optimum, whose releases hold transformers
back. Tokens, pooling and normalisation stay those of sentence-transformers.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder.loading import require_torch
from lancedb_ft.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = ["BACKENDS", "check_backend", "with_openvino"]

#: What ``backend`` may be.
BACKENDS = ("torch", "openvino")

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_PURPOSE = "The backend 'openvino'"


def check_backend(backend: str, device: str) -> None:
    """Raise `InputError` unless the backend is one of `BACKENDS` and runs on the device."""
    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}.")
    if backend == "openvino" and device != "cpu":
        raise InputError(f"The backend 'openvino' runs on device 'cpu', not on {device!r}.")


def with_openvino(model: SentenceTransformer, precision: str) -> SentenceTransformer:
    """Return a copy of a model in float32 on the CPU whose network OpenVINO runs.

    Parameters
    ----------
    model
        Its first module is a transformer that gives the last hidden state.
    precision
        ``float32`` or ``bfloat16``: what OpenVINO computes in. It takes the weights as float32.

    Raises
    ------
    InputError
        The model is of another kind.
    MissingExtraError
        openvino is not installed.
    """
    torch = require_torch()
    made = copy.deepcopy(model)
    first: Any = made[0]
    network = getattr(first, "auto_model", None)
    text = getattr(first, "modality_config", {}).get("text", {})
    if network is None or text.get("method_output_name") != "last_hidden_state":
        raise InputError(
            "The backend 'openvino' runs transformers whose last hidden state is pooled; the first "
            f"module of this model is {type(first).__name__}. Use backend='torch'."
        )
    found = made.preprocess(["one text", "and another, which is longer"])
    example = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
    compiled = _compiled(network, example, precision)
    network.forward = _Forward(compiled, tuple(example))
    return made


class _Forward:
    """Stands in for the forward pass of a network."""

    def __init__(self, compiled: Any, names: tuple[str, ...]) -> None:
        self._compiled = compiled
        self._names = names
        self._lock = threading.Lock()  # one request at a time; it uses all cores

    def __call__(self, **features: Any) -> dict[str, torch.Tensor]:
        import torch

        inputs = {name: features[name].numpy() for name in self._names}
        with self._lock:
            hidden = self._compiled(inputs)[0]
        return {"last_hidden_state": torch.from_numpy(hidden)}


def _compiled(network: Any, example: dict[str, torch.Tensor], precision: str) -> Any:
    """Trace, convert and compile, as `openvino.convert_model` does."""
    import torch

    _keep_quiet()  # first: what the front ends report of being imported is sent from a thread
    try:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    except ImportError as error:
        raise MissingExtraError("openvino", extra="openvino", purpose=_PURPOSE) from error

    with torch.no_grad(), warnings.catch_warnings():
        # Of the tracer, about Python values that become constants; the agreement is checked.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(_hidden_state(network), example_input=example)
    front = FrontEndManager().load_by_framework("pytorch")
    converted = front.convert(front.load(decoder))
    options = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.Core().compile_model(converted, "CPU", options)


def _keep_quiet() -> None:
    """Have OpenVINO's front ends report nothing: each use would fork this process to send it."""
    with contextlib.suppress(ImportError):
        from openvino_telemetry.backend.backend_ga4 import GA4Backend

        GA4Backend.send = lambda self, message: None


def _hidden_state(network: Any) -> Any:
    """Return a module that gives the last hidden state alone: a tracer follows plain tensors."""
    import torch

    class HiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> torch.Tensor:
            more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            found = self.network(input_ids=input_ids, attention_mask=attention_mask, **more)
            return found[0]  # type: ignore[no-any-return]

    return HiddenState().eval()
