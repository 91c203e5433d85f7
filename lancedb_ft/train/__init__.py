"""Fine-tune an embedding model on pairs, and keep it only if it beats the model it started from.

::

    train(base, split.train, dev=split.dev, name="support") -> ModelVersion

    config.py    the arguments that decide the result, validated
    losses.py    what may be trained with, by name
    examples.py  pairs as sentence-transformers wants them
    devset.py    the held-out pairs and their small corpus: measured during training
    compute.py   device, precision and memory: how a step is computed, never what
    runs.py      the folder of a run: checkpoints that survive a kill, the best weights so far
    course.py    what happens at which step
    trainer.py   train(), the verb

torch and sentence-transformers are imported by the first call, not by this package.
"""

from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.losses import LOSSES, Loss
from lancedb_ft.train.trainer import train

__all__ = ["LOSSES", "Loss", "TrainingConfig", "train"]
