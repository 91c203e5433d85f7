"""The arguments that decide what a distillation gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lancedb_ft.arguments import check_whole
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.metrics import parse_metric
from lancedb_ft.train.checks import check_max_tokens, check_rate, check_seed

__all__ = ["DistillConfig"]


@dataclass(frozen=True)
class DistillConfig:
    """How to distill; recorded in the manifest.

    Parameters
    ----------
    student
        ``static``, ``layers:N``, or a reference to a model.
    dims
        Length of the student's vectors, at most the teacher's; None: the teacher's.
    epochs, batch_size, learning_rate
        None: 5, a sixteenth of the rows (64 to 2,048) and .05 of the table's root mean square for
        a static student; 3, 64 and 1e-4 for a network.
    pairs
        A static student may learn from the pairs of the data which texts belong together.
    max_texts
        The teacher embeds so many texts at most.
    max_tokens
        A network student reads so many tokens in training; saved, it keeps the model's own limit.
    metric
        What decides which epoch is kept, on dev.
    seed
        Of the order, and of the choice of texts.

    Raises
    ------
    InputError
        A value is out of its range.
    """

    student: str = "static"
    dims: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    pairs: bool = True
    max_texts: int = 200_000
    max_tokens: int | None = 128
    metric: str = "ndcg@10"
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what would fail later."""
        parse_metric(self.metric)
        for name, least in (("dims", 1), ("epochs", 1), ("batch_size", 2), ("max_texts", 1)):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, least=least)
        check_seed("seed", self.seed)
        check_max_tokens("max_tokens", self.max_tokens)
        if self.learning_rate is not None:
            check_rate("learning_rate", self.learning_rate)
        if not isinstance(self.student, str):
            raise InputError(
                f"student is a {type(self.student).__name__}; it must be 'static', 'layers:N' or "
                "the reference of a model."
            )
        kind, _, n_layers = self.student.partition(":")
        if kind == "layers" and not (n_layers.isdecimal() and int(n_layers)):
            raise InputError(
                f"student is {self.student!r}; say how many of the teacher's layers it keeps, as "
                "in 'layers:3'."
            )

    def filled(self, *, epochs: int, batch_size: int, learning_rate: float) -> DistillConfig:
        """Return the arguments with these where none are given."""
        return replace(
            self,
            epochs=self.epochs or epochs,
            batch_size=self.batch_size or batch_size,
            learning_rate=self.learning_rate or learning_rate,
        )
