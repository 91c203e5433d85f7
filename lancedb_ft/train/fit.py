"""sentence-transformers' trainer, with our checkpoints, our evaluations and no side effects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError
from lancedb_ft.train.compute import Compute, in_chunks
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.course import Course
from lancedb_ft.train.examples import training_dataset
from lancedb_ft.train.losses import require_loss
from lancedb_ft.train.runs import RunFolder, load_weights, save_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["fit"]

_WEIGHTS = "model.safetensors"


def fit(
    model: SentenceTransformer,
    columns: Mapping[str, list[str]],
    course: Course,
    run: RunFolder,
    *,
    config: TrainingConfig,
    compute: Compute,
    batch_size: int,
) -> None:
    """Train a model in place, from the run's last checkpoint if it has one.

    Parameters
    ----------
    model
        In float32; ends with the weights of the last step.
    columns
        See `training_columns`.
    course
        Told of every step.
    run
        Where checkpoints go.
    """
    from transformers import PrinterCallback, ProgressCallback

    trainer = _trainer_class()(
        model=model,
        args=_arguments(run, config, compute, batch_size),
        train_dataset=training_dataset(columns),
        loss=require_loss(config.loss).build(in_chunks(model, compute)),
        callbacks=[_follower(course)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    # Without the base model's figures there is nothing to compare with, so begin anew.
    step = run.last_checkpoint() if course.figures else None
    trainer.train(resume_from_checkpoint=None if step is None else str(run.checkpoint_path(step)))


def _arguments(run: RunFolder, config: TrainingConfig, compute: Compute, batch_size: int) -> Any:
    from sentence_transformers.sentence_transformer.training_args import (
        BatchSamplers,
        SentenceTransformerTrainingArguments,
    )

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(run.path),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=config.rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup,  # below 1 it is a share of the steps
        seed=config.seed,
        # A text in a batch twice would be told to be unlike itself.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        use_cpu=compute.device == "cpu",
        dataloader_pin_memory=compute.device.startswith("cuda"),
        # Evaluations, checkpoints and progress are the course's.
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else it spreads each batch over all of them, and the negatives too
    if str(arguments.device).partition(":")[0] != compute.device.partition(":")[0] or (
        compute.device.startswith("cuda:") and compute.device != "cuda:0"
    ):
        raise InputError(
            f"device is {compute.device!r}, and training runs on {str(arguments.device)!r} here. "
            "Choose a GPU with the environment variable CUDA_VISIBLE_DEVICES."
        )
    return arguments


def _trainer_class() -> Any:
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer

    class FineTuner(SentenceTransformerTrainer):
        """Keeps plain weights in its checkpoints, and nothing of the training text."""

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """Add none: the card quotes the training data, and gathering that takes time."""

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.model, folder / _WEIGHTS)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            # Weights alone: a checkpoint cannot change what the model is made of.
            load_weights(self.model, Path(resume_from_checkpoint) / _WEIGHTS)

    return FineTuner


def _follower(course: Course) -> Any:
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        """Hands the trainer's events to the course."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            course.begin(state.global_step, state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = course.after_step(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            course.saved(state.global_step)

    return Follower()
