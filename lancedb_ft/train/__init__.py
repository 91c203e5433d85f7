"""Fine-tune an embedding model, and keep it only if it beats the model it started from.

::

    train(base, split.train, dev=split.dev, name="support") -> ModelVersion

    config.py       the arguments that decide the result, validated
    checks.py       the ranges of arguments, the same for every verb
    defaults.py     what is chosen where nothing was said, and why: explain_training()
    losses.py       what may be trained with, by name
    examples.py     training sets of any type as a loss reads them
    dev.py          what is measured during training: held out, or given
    devset.py       queries and their small corpus
    scored_dev.py   scored pairs
    prompts.py      what stands before texts; pooling
    lora.py         adapters of low rank
    compute.py      device, precision and memory: how a step is computed, never what
    distributed.py  several processes
    static_base.py  where the model is a table of token vectors
    token_limits.py how much of a text a model reads
    sampling.py     the rows of each batch, where some texts stand in very many
    corpus.py       documents of several places, told by their texts
    warmup.py       the schedule of the learning rate
    runs.py         the folder of a run: checkpoints that survive a kill, the best weights so far
    steps.py        what every training does at its steps: losses, evaluations, checkpoints
    course.py       those of train(): dev, probes, the best weights
    stages.py       a curriculum: harder negatives epoch after epoch
    fit.py          the trainer of sentence-transformers, as it is run here
    probe.py        the forgetting check: what the base does well, asked at every evaluation
    interpolate.py  weights between base and tuned; interpolate_models() for models that are there
    recorded.py     what a version keeps of the rows it was trained on
    replay.py       a version's own training data, found again
    guards.py       all of these, as one run is held to them
    outcome.py      what a run has come to, and is saved
    picture.py      training.png
    preparation.py  arguments and data, checked and chosen before any work
    job.py          everything that a run needs
    places.py       where a run keeps its things
    execution.py    a run carried out: the model before, the steps, what is saved
    trainer.py      train(), the verb
    tuning/         tune(): a search for the arguments
    distillation/   distill(): a smaller or faster student
    rerankers/      train_reranker(): a cross-encoder
    queries/        train_query_adapter(): queries alone

torch and sentence-transformers are imported by the first call, not by this package.
"""

from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.defaults import Choice
from lancedb_ft.train.distillation.config import DistillConfig
from lancedb_ft.train.distillation.distill import distill
from lancedb_ft.train.interpolate_models import interpolate_models
from lancedb_ft.train.losses import LOSSES, Loss
from lancedb_ft.train.probe import Probe
from lancedb_ft.train.queries.trainer import train_query_adapter
from lancedb_ft.train.rerankers.losses import RERANKER_LOSSES
from lancedb_ft.train.rerankers.trainer import train_reranker
from lancedb_ft.train.trainer import explain_training, train
from lancedb_ft.train.tuning.tune import SearchSpace, TuneReport, TuneTrial, tune

__all__ = [
    "LOSSES",
    "RERANKER_LOSSES",
    "Choice",
    "DistillConfig",
    "Loss",
    "Probe",
    "SearchSpace",
    "TrainingConfig",
    "TuneReport",
    "TuneTrial",
    "distill",
    "explain_training",
    "interpolate_models",
    "train",
    "train_query_adapter",
    "train_reranker",
    "tune",
]
