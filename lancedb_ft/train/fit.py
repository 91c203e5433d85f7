"""sentence-transformers' trainer, with our checkpoints, our evaluations and no side effects."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.train.compute import Compute, in_chunks
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.course import Course
from lancedb_ft.train.distributed import ALONE, Processes
from lancedb_ft.train.examples import Examples, usable_batch_size
from lancedb_ft.train.losses import LossSettings, build_loss
from lancedb_ft.train.runs import RunFolder, load_weights, save_weights, written
from lancedb_ft.train.sampling import capped_sampler
from lancedb_ft.train.stages import staged_sampler
from lancedb_ft.train.token_limits import limit_tokens
from lancedb_ft.train.warmup import Warmup

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

__all__ = ["Fitting", "check_report_to", "fit"]

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Fitting:
    """What is fitted, and how it is computed.

    Parameters
    ----------
    examples
        One or several sets, trained in turn in proportion to their batches.
    config
        The arguments, complete.
    compute
        Device and precision.
    processes
        The processes that train together.
    guide
        The folder of the model that tells false negatives, where a loss asks for one.
    report_to
        Names of integrations of the trainer, such as ``tensorboard``.
    log_dir
        Where TensorBoard's files go.
    """

    examples: Sequence[Examples]
    config: TrainingConfig
    compute: Compute
    processes: Processes = ALONE
    guide: str | None = None
    report_to: Sequence[str] = ()
    log_dir: Path | None = None


def fit(model: SentenceTransformer, fitting: Fitting, course: Course, run: RunFolder) -> None:
    """Train a model in place, from the run's last checkpoint if it has one.

    Parameters
    ----------
    model
        In float32; ends with the weights of the last step.
    fitting
        On what and how.
    course
        Told of every step.
    run
        Where checkpoints go.
    """
    from transformers import PrinterCallback, ProgressCallback

    processes = fitting.processes
    # Without the base model's figures there is nothing to compare with, so begin anew.
    step = processes.first(lambda: run.last_checkpoint() if course.figures else None)
    if step is not None and processes.first(lambda: course.was_over(step)):
        return
    follower = _follower(course, processes)
    with _log_dir(fitting):
        trainer = _trainer_class()(
            model=model,
            args=_arguments(run, fitting),
            train_dataset=_datasets(fitting.examples),
            loss=_losses(model, fitting),
            callbacks=[follower],
        )
    trainer.fitting = fitting
    follower.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train(resume_from_checkpoint=None if step is None else str(run.checkpoint_path(step)))
    course.warmup = trainer.warmup.to_dict()


def check_report_to(names: str | Sequence[str]) -> Sequence[str]:
    """Return what to report to, one name or several, where the trainer can do so here.

    Raises
    ------
    InputError
        There is no such integration, or its package is not installed.
    """
    names = (names,) if isinstance(names, str) else names
    if not names:
        return ()
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"report_to names {name!r}; the trainer knows {known}.")
        if name not in get_available_reporting_integrations():  # type: ignore[no-untyped-call]
            raise InputError(
                f"report_to names {name!r}, which is not installed: pip install {name}."
            )
    return tuple(names)


def _datasets(examples: Sequence[Examples]) -> Any:
    if len(examples) == 1:
        return examples[0].dataset()
    return {each.name: each.dataset() for each in examples}


def _losses(model: SentenceTransformer, fitting: Fitting) -> nn.Module | dict[str, nn.Module]:
    wrapped = in_chunks(model, fitting.compute)
    guide = _guide(model, fitting)
    made = {
        each.name: build_loss(
            each.loss,
            wrapped,
            LossSettings(
                temperature=fitting.config.temperature,
                mini_batch_size=fitting.config.mini_batch_size,
                gather=fitting.processes.count > 1,
                guide=guide,
                teacher_temperature=each.teacher_temperature,
            ),
            matryoshka_dims=fitting.config.matryoshka_dims,
        )
        for each in fitting.examples
    }
    return made if len(made) > 1 else next(iter(made.values()))


def _guide(model: SentenceTransformer, fitting: Fitting) -> Any:
    if fitting.guide is None:
        return None
    guide = load_sentence_transformer(fitting.guide, device=fitting.compute.device).float()
    guide.requires_grad_(False)
    # It reads what the model reads: with the same limit the tokens are its own, too.
    limit_tokens(guide, model.max_seq_length)
    return in_chunks(guide, fitting.compute)


def _arguments(run: RunFolder, fitting: Fitting) -> Any:
    from sentence_transformers.sentence_transformer.training_args import (
        SentenceTransformerTrainingArguments,
    )

    config, compute = fitting.config, fitting.compute
    prompts = {each.name: each.prompts for each in fitting.examples if each.prompts}
    one = len(fitting.examples) == 1
    try:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(run.path),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,  # type: ignore[arg-type]  # `choose` fills it in
            seed=config.seed,
            prompts=(next(iter(prompts.values())) if one else prompts) if prompts else None,
            use_cpu=compute.device == "cpu",
            dataloader_pin_memory=compute.device.startswith("cuda"),
            # Evaluations, checkpoints and progress are the course's.
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="steps" if fitting.report_to else "no",
            logging_steps=1,
            report_to=list(fitting.report_to) or "none",
            disable_tqdm=True,
        )
    except ValueError as error:
        raise InputError(f"The trainer refuses its arguments: {error}") from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else it spreads each batch over all of them, and the negatives too
    _check_device(str(arguments.device), compute.device, fitting.processes)
    return arguments


def _check_device(found: str, wanted: str, processes: Processes) -> None:
    same_kind = found.partition(":")[0] == wanted.partition(":")[0]
    elsewhere = processes.count == 1 and wanted.startswith("cuda:") and wanted != "cuda:0"
    if not same_kind or elsewhere:
        raise InputError(
            f"device is {wanted!r}, and training runs on {found!r} here. "
            "Choose a GPU with the environment variable CUDA_VISIBLE_DEVICES."
        )


@contextlib.contextmanager
def _log_dir(fitting: Fitting) -> Iterator[None]:
    """Have TensorBoard write where the files outlive the run, unless the user said where."""
    variable = "TENSORBOARD_LOGGING_DIR"
    if "tensorboard" not in fitting.report_to or not fitting.log_dir or variable in os.environ:
        yield
        return
    os.environ[variable] = str(fitting.log_dir)
    try:
        yield
    finally:
        del os.environ[variable]


def _trainer_class() -> Any:
    import torch
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
    from torch.optim.lr_scheduler import LambdaLR

    class FineTuner(SentenceTransformerTrainer):
        """Keeps plain weights in its checkpoints, and nothing of the training text."""

        fitting: Fitting
        warmup: Warmup
        #: Loss and learning rate of the last step.
        last: tuple[float, float] = (float("nan"), 0.0)

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """Add none: the card quotes the training data, and gathering that takes time."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """Use a warm-up that can be raised."""
            if self.lr_scheduler is None:
                config = self.fitting.config
                self.warmup = Warmup(
                    config.warmup, num_training_steps, adaptive=config.raise_warmup
                )
                self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.warmup)  # type: ignore[arg-type]
                self._created_lr_scheduler = True
            return self.lr_scheduler

        def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kw: Any) -> Any:
            """Sample each set as its loss needs it."""
            return _batch_sampler(self.fitting, dataset, batch_size, kw)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kw: Any) -> Any:
            """Run the plain model, not one that synchronizes gradients by itself."""
            return super().compute_loss(self.model, inputs, *args, **kw)

        def training_step(self, model: Any, inputs: Any, *args: Any, **kw: Any) -> torch.Tensor:
            """Average gradients, and let the warm-up see the loss."""
            rate = self._get_learning_rate()
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kw)
            processes = self.fitting.processes
            processes.average_gradients(self.model)
            value = processes.average(float(loss))
            self.warmup.observe(value)
            self.last = (value, float(rate))
            return loss

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.model, folder / _WEIGHTS)

        def _save_checkpoint(self, *args: Any, **kw: Any) -> None:
            with written(Path(str(self.args.output_dir))):
                super()._save_checkpoint(*args, **kw)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            # Weights alone: a checkpoint cannot change what the model is made of.
            load_weights(self.model, Path(resume_from_checkpoint) / _WEIGHTS)

    return FineTuner


def _batch_sampler(fitting: Fitting, dataset: Any, batch_size: int, settings: Any) -> Any:
    """Return batches in which no text stands twice, where it would be told to be unlike itself."""
    from datasets import Dataset

    def over(rows: Any) -> Any:
        return capped_sampler(examples, rows, size, settings)

    name = dataset.info.dataset_name
    examples = next(each for each in fitting.examples if each.name == name)
    size = usable_batch_size(examples, batch_size, n_processes=fitting.processes.count)
    if examples.loss.in_batch_negatives:
        sampled = examples.dataset(with_groups=True)
    else:  # rows that never repeat: this sampler alone shuffles by seed and epoch, as resume needs
        sampled = Dataset.from_dict({"row": list(range(len(dataset)))})
    if examples.n_stages == 1:
        return over(sampled)
    firsts = range(0, len(dataset), len(examples))
    parts = [over(sampled.select(range(first, first + len(examples)))) for first in firsts]
    return staged_sampler(parts, fitting.config.epochs)


def _follower(course: Course, processes: Processes) -> Any:
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        """Hands the trainer's events to the course."""

        trainer: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            processes.first(lambda: course.begin(state.global_step, state.max_steps))
            course.prepare()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step, n_steps = state.global_step, state.max_steps
            loss, rate = self.trainer.last

            def judge() -> tuple[bool, bool]:
                course.after_loss(step, n_steps, loss, rate)
                return course.after_step(step, n_steps), course.is_over(step)

            save, stop = processes.first(judge)
            control.should_save = save
            control.should_training_stop = control.should_training_stop or stop
            if self.trainer.args.report_to and processes.is_first and step in course.figures:
                self.trainer.log({f"dev_{n}": v for n, v in course.means(step).items()})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            processes.wait()  # until the others have written their random state
            processes.first(lambda: course.saved(state.global_step))

    return Follower()
