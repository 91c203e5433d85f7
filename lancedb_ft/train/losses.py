"""The losses, by name. A new one is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.arguments import is_whole
from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CACHED_FORMS",
    "LOSSES",
    "SHAPES",
    "TRAINED_WITH",
    "Loss",
    "LossSettings",
    "build_loss",
    "check_matryoshka_dims",
    "check_shape",
    "require_loss",
]

#: The shapes of columns that losses read, and what each is.
SHAPES: Mapping[str, str] = {
    "pairs": "a text and one that belongs to it",
    "triplets": "a text, one that belongs to it and one that does not",
    "tuples": "a text, one that belongs to it and several that do not",
    "scored": "two texts and how alike they are",
    "teacher": "a query, its candidates and a teacher's score for each",
    "vectors": "a text and a teacher's vector for it",
}

#: Texts of one forward pass of a cached loss, where nothing else is said.
MINI_BATCH = 32
#: A negative that the guide finds closer than 95 % of the positive counts as a false one (TopK-
#: PercPos, NV-Retriever, arXiv:2407.15831).
GUIDE_MARGIN = 0.05
#: Cosine distances lie from 0 to 2; the library's default of 5 is for vectors of any length.
TRIPLET_MARGIN = 0.5


@dataclass(frozen=True)
class LossSettings:
    """What a loss may be tuned by.

    Parameters
    ----------
    temperature
        Divides the similarities before the softmax, above 0; None for the loss's own.
    mini_batch_size
        Texts of one forward pass, for cached losses.
    gather
        Take the documents of all processes as negatives.
    guide
        A frozen model that tells false negatives, for GISTEmbed.
    teacher_temperature
        Divides a teacher's scores, above 0.
    """

    temperature: float | None = None
    mini_batch_size: int = MINI_BATCH
    gather: bool = False
    guide: Any = field(default=None, repr=False)
    teacher_temperature: float = 1.0

    def scale(self, default: float) -> float:
        """Return 1 / temperature."""
        return 1.0 / (default if self.temperature is None else self.temperature)


@dataclass(frozen=True)
class Loss:
    """A loss over columns of texts.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings.
    build
        Makes the loss of sentence-transformers around a model.
    shapes
        The shapes of columns it reads, see `SHAPES`; the richest first.
    in_batch_negatives
        The other documents of a batch are its negatives: a batch of one pair without a negative of
        its own teaches nothing.
    temperature
        The one used where none is given; None where it has none.
    needs_guide
        It asks a second, frozen model which negatives are false.
    """

    name: str
    description: str
    build: Callable[[Any, LossSettings], nn.Module]
    shapes: tuple[str, ...]
    in_batch_negatives: bool = False
    temperature: float | None = None
    needs_guide: bool = False


# --- makers ------------------------------------------------------------------------------------


def _mnrl(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(
        model, scale=settings.scale(0.05), gather_across_devices=settings.gather
    )


def _cached_mnrl(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    return CachedMultipleNegativesRankingLoss(
        model,
        scale=settings.scale(0.05),
        mini_batch_size=settings.mini_batch_size,
        gather_across_devices=settings.gather,
    )


def _gist(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    return GISTEmbedLoss(
        model,
        settings.guide,
        temperature=1.0 / settings.scale(0.05),
        margin_strategy="relative",
        margin=GUIDE_MARGIN,
        gather_across_devices=settings.gather,
    )


def _cached_gist(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss

    return CachedGISTEmbedLoss(
        model,
        settings.guide,
        temperature=1.0 / settings.scale(0.05),
        mini_batch_size=settings.mini_batch_size,
        margin_strategy="relative",
        margin=GUIDE_MARGIN,
        gather_across_devices=settings.gather,
    )


def _triplet(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import (
        TripletDistanceMetric,
        TripletLoss,
    )

    return TripletLoss(
        model,
        distance_metric=TripletDistanceMetric.COSINE,
        triplet_margin=TRIPLET_MARGIN,
    )


def _cosent(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return CoSENTLoss(model, scale=settings.scale(0.05))


def _angle(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import AnglELoss

    return AnglELoss(model, scale=settings.scale(0.05))


def _cosine(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    return CosineSimilarityLoss(model)


def _mse(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import MSELoss

    return MSELoss(model)


def _margin_mse(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss
    from sentence_transformers.util import pairwise_cos_sim

    # Cosines lie from -1 to 1; dividing them lets them span the margins of the teacher.
    scale = settings.scale(1.0)
    return MarginMSELoss(model, similarity_fct=lambda a, b: pairwise_cos_sim(a, b) * scale)


def _distill_kl(model: Any, settings: LossSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim

    return DistillKLDivLoss(
        model,
        similarity_fct=pairwise_cos_sim,
        student_temperature=1.0 / settings.scale(0.05),
        teacher_temperature=settings.teacher_temperature,
    )


#: Every loss: `TRAINED_WITH` are those of ``train(loss=...)``.
LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            "mnrl",
            "MultipleNegativesRankingLoss: the right document against all others of the batch "
            "(InfoNCE, temperature 0.05; arXiv:1705.00652, 1807.03748)",
            _mnrl,
            ("tuples", "triplets", "pairs"),
            in_batch_negatives=True,
            temperature=0.05,
        ),
        Loss(
            "cached_mnrl",
            "the same in little memory, whatever the batch: each text is computed twice "
            "(GradCache, arXiv:2101.06983)",
            _cached_mnrl,
            ("tuples", "triplets", "pairs"),
            in_batch_negatives=True,
            temperature=0.05,
        ),
        Loss(
            "gist",
            "GISTEmbedLoss: as mnrl, without the negatives that a guide finds as close as the "
            "positive (arXiv:2402.16829)",
            _gist,
            ("triplets", "pairs"),
            in_batch_negatives=True,
            temperature=0.05,
            needs_guide=True,
        ),
        Loss(
            "cached_gist",
            "the same in little memory",
            _cached_gist,
            ("triplets", "pairs"),
            in_batch_negatives=True,
            temperature=0.05,
            needs_guide=True,
        ),
        Loss(
            "triplet",
            "TripletLoss: the positive closer than the negative by a margin in cosine distance "
            "(arXiv:1503.03832)",
            _triplet,
            ("triplets",),
        ),
        Loss(
            "cosent",
            "CoSENTLoss: more alike pairs closer than less alike ones, over all pairs of a batch",
            _cosent,
            ("scored",),
            temperature=0.05,
        ),
        Loss(
            "angle",
            "AnglELoss: as cosent, on angles in complex space (arXiv:2309.12871)",
            _angle,
            ("scored",),
            temperature=0.05,
        ),
        Loss("cosine", "CosineSimilarityLoss: the cosine is to be the score", _cosine, ("scored",)),
        Loss(
            "mse",
            "MSELoss: the vector is to be that of a teacher (arXiv:2004.09813); what distill() "
            "trains a network student with",
            _mse,
            ("vectors",),
        ),
        Loss(
            "margin_mse",
            "MarginMSELoss: differences between scores are to be those of a teacher "
            "(arXiv:2010.02666)",
            _margin_mse,
            ("teacher",),
            temperature=1.0,
        ),
        Loss(
            "distill_kl",
            "DistillKLDivLoss: the ranking of the candidates is to be that of a teacher "
            "(listwise, arXiv:2010.11386)",
            _distill_kl,
            ("teacher",),
            temperature=0.05,
        ),
    )
}

#: Losses that some type of training data can be read with; `distill` has the vectors of the others.
TRAINED_WITH: Sequence[str] = tuple(
    loss.name for loss in LOSSES.values() if loss.shapes != ("vectors",)
)

#: The form of a loss that needs memory for a part of a batch only.
CACHED_FORMS: Mapping[str, str] = {"mnrl": "cached_mnrl", "gist": "cached_gist"}


def require_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if not isinstance(name, str) or name not in LOSSES:
        known = ", ".join(f"{loss.name!r} ({loss.description})" for loss in LOSSES.values())
        raise InputError(f"There is no loss {name!r}. There is: {known}.")
    return LOSSES[name]


def check_shape(loss: Loss, available: Sequence[str], *, kind: str) -> str:
    """Return the shape in which a loss reads data that can be given in some shapes.

    Parameters
    ----------
    available
        Keys of `SHAPES`.
    kind
        The type of the data, for the error.

    Raises
    ------
    InputError
        It reads none of them; the error names the losses that do.
    """
    for shape in loss.shapes:
        if shape in available:
            return shape
    if loss.name not in TRAINED_WITH:
        raise InputError(
            f"Loss {loss.name!r} reads {SHAPES[loss.shapes[0]]}, which no type of training data "
            "holds: distill() asks the teacher for its vectors, and trains a network student with "
            "it. Losses for train() are: "
            f"{', '.join(TRAINED_WITH)}."
        )
    fitting = [one.name for one in LOSSES.values() if set(one.shapes) & set(available)]
    wanted = " or ".join(SHAPES[shape] for shape in loss.shapes)
    raise InputError(
        f"Loss {loss.name!r} reads {wanted}; data of the type {kind!r} gives "
        f"{' or '.join(SHAPES[shape] for shape in available)}. Losses that fit it: "
        f"{', '.join(fitting)}."
    )


def check_matryoshka_dims(dims: Sequence[int], model_dims: int) -> list[int]:
    """Return the lengths to train a vector for, longest first; the full one is always among them.

    Raises
    ------
    InputError
        A length is not a whole number from 1 to that of the model.

    Examples
    --------
    >>> check_matryoshka_dims([64, 128], 384)
    [384, 128, 64]
    """
    for each in dims:
        if not is_whole(each, 1, model_dims):
            raise InputError(
                f"matryoshka_dims has {each!r}; each must be a whole number from 1 to "
                f"{model_dims}, the length of the model's vectors."
            )
    return sorted({*dims, model_dims}, reverse=True)


def build_loss(
    loss: Loss, model: Any, settings: LossSettings, *, matryoshka_dims: Sequence[int] = ()
) -> nn.Module:
    """Make a loss around a model, trained for shorter vectors as well where that is asked.

    Parameters
    ----------
    model
        As `lancedb_ft.train.compute.in_chunks` wraps it.
    matryoshka_dims
        The first so many dimensions of a vector are to be good vectors by themselves (Matryoshka
        representation learning, arXiv:2205.13147); empty for the full length alone.
    """
    made = loss.build(model, settings)
    if not matryoshka_dims:
        return made
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    return MatryoshkaLoss(model, made, list(matryoshka_dims))
