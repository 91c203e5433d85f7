"""The job: stage, fill, index, verify, gate, switch. Run again, it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lancedb_ft.embedding import require_model
from lancedb_ft.errors import InputError, VerifyError
from lancedb_ft.generation import Generation, TableState
from lancedb_ft.reindex.checks.verify import MIN_COSINE, Check, sample_size, verify
from lancedb_ft.reindex.columns import gone_columns
from lancedb_ft.reindex.engines import engine_of
from lancedb_ft.reindex.faults import storage_told
from lancedb_ft.reindex.filling.probe import trusted
from lancedb_ft.reindex.filling.vector_cache import check_cache, open_cache
from lancedb_ft.reindex.gates.approval import Approval
from lancedb_ft.reindex.generation_job import GenerationJob, QueryJob, ReindexReport
from lancedb_ft.reindex.indexes.dropping import drop_dangling_indexes
from lancedb_ft.reindex.lock import job_lock
from lancedb_ft.reindex.query_only import same_documents
from lancedb_ft.reindex.serving import mend_index, require_generations
from lancedb_ft.reindex.stage import stage
from lancedb_ft.reindex.target import (
    Target,
    donors_of,
    encoder_of,
    kept_generation,
    make_target,
    state_of,
)
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.reindex.engines import Engine
    from lancedb_ft.types import Evaluation, Gate, ModelVersion, Progress

#: Times that rows written between a fill and its check are filled and checked again.
_MAX_VERIFIED = 20

__all__ = ["ReindexReport", "reindex"]


@storage_told
def reindex(
    table: Table,
    model: str | ModelVersion,
    *,
    gate: Gate | None = None,
    force: bool = False,
    text_column: str | None = None,
    vector_column: str | None = None,
    id_column: str | None = None,
    store: str | None = None,
    dims: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    base: Evaluation | None = None,
    base_model: str | None = None,
    writers_have_plugin: bool = False,
    re_embed: bool = False,
    engine: str | Engine = "local",
    backend: str = "torch",
    cache: str | None = None,
    progress: Progress | None = None,
) -> ReindexReport:
    """Give a table the vectors of another model while it goes on being searched and written.

    The new vectors are filled into a parked column that plain LanceDB does not see. When they
    are complete, verified and indexed, and the gate says yes, one commit shows them and hides
    the old ones. Without a gate and without ``force`` the job ends there, *ready*: see `switch`.
    Killed at any moment, the same call goes on where it stopped.

    Where the table's vectors are those that the new model makes of the documents (it differs from
    the present one in its query adapter alone, see `train_query_adapter`), nothing is encoded or
    written: queries are embedded with the new model after one commit of metadata.

    Parameters
    ----------
    table
        The table. It may have a vector column with any embedding function, with none, or no
        vector column at all.
    model
        ``name@version``, a folder, ``hf://org/name@revision``, or what `train` returned.
    gate
        What the new vectors must reach on the real table, see `Gate`.
    force
        Switch whatever the gate says, or without one. Noted in the table's history.
    text_column, vector_column, id_column
        Found by themselves where the table leaves no choice.
    store
        The model store. None: the first that has the model, of ``ft_models`` inside the database,
        the registry variable ``ft_store`` or ``LANCEDB_FT_STORE``, and the store that the table's
        function names.
    dims
        Keep only the first ``dims`` dimensions (models trained for it: Matryoshka).
    device, precision
        Where and how to encode, see `get_encoder`.
    base
        Figures of what serves now, for a table without vectors.
    base_model
        The model of a raw vector column, for the gate, and to see whether its vectors can stay.
    writers_have_plugin
        Every writer imports lancedb_ft: register the function while staging already.
    re_embed
        Encode all rows, also where their vectors are those of the new model already, or where
        their column was dropped.
    backend
        What runs the network: ``torch`` or ``openvino``.
    cache
        Table of vectors by text, so that no text is encoded twice by one model: its name in the
        same database, or, with a slash, the path or URI of a database. Made if it is not there.
    engine
        Where rows are encoded: ``local``, ``ray``, or a `RayEngine` with its options.
    progress
        Called with rows done and rows in all.

    Raises
    ------
    GateError
        The gate said no; the table is as it was, with the new vectors parked.
    VerifyError
        The vectors are incomplete or of another model.
    ReindexRunningError
        Another process is at it.
    """
    runs_on = engine_of(engine)
    if cache is not None and runs_on.name != "local":
        raise InputError(
            f"The workers of engine {runs_on.name!r} do not look into a cache. Leave out cache= "
            "(--cache), or encode on this machine."
        )
    _check_progress(progress)
    approval = Approval(gate, force, id_column, base, base_model, store)
    target, encoder = make_target(
        table,
        model,
        text_column=text_column,
        vector_column=vector_column,
        store=store,
        dims=dims,
        device=device,
        precision=precision,
        backend=backend,
    )
    with job_lock(table, model=target.model.ref):
        drop_dangling_indexes(table)
        state = state_of(table, vector_column)
        mend_index(table, state.active)
        active = _already_active(table, state, target, re_embed=re_embed)
        if active is None:
            approval = approval.prepared(table, state.active, text_column=target.text_column)
            served = None if re_embed else _served(table, state, target, dims, store, base_model)
            if served is not None:
                target = replace(target, dims=served.dims)
                queries = QueryJob(table, served, target, encoder.with_dims(served.dims))
                return queries.run(approval)
        kept = active or kept_generation(state, target)
        require_generations(table, state, kept)
        if cache is not None:
            check_cache(table, cache)  # before anything is staged
        if kept is None:
            target, encoder = trusted(table, target, encoder)
        generation = kept or stage(table, target, writers_have_plugin=writers_have_plugin)
        # What one run began in one precision, the next one goes on in: the record speaks for all.
        if not _made_as(generation, encoder):
            encoder = encoder_of(table, generation, store=store, device=device)
        job = GenerationJob(
            table,
            generation,
            encoder,
            progress,
            runs_on,
            cache=None if cache is None else open_cache(table, cache, encoder),
            donors=donors_of(table, generation),
            device=device,
        )
        return _run(table, generation, encoder, job, approval)


def _run(
    table: Table,
    generation: Generation,
    encoder: Encoder,
    job: GenerationJob,
    approval: Approval,
) -> ReindexReport:
    """Fill, verify, index; ask, and show. What is shown already is only mended."""
    with job.timed("fill"):
        job.fill()
    with job.timed("verify"):
        check = _verified(table, generation, encoder, job)
    if generation.phase == "active":
        mend_index(table, generation)
        note = "the table already searches with this model; rows that were stale were mended"
        return job.report(check, switched=True, note=note)
    with job.timed("index"):
        index = job.build_index()
    job.mark_ready(check, index)
    if not approval.asked_for:
        note = "filled and verified, not shown: give a gate or force=True (reindex switch)"
        return job.report(check, switched=False, note=note, index=index)
    with job.timed("gate"):
        verdict = job.judge(state_of(table).active, approval)
    with job.timed("switch"):
        require_model(generation.function)
        job.show(verdict, force=approval.force)
    return job.report(check, switched=True, index=index, gate=verdict)


def _check_progress(progress: Progress | None) -> None:
    if progress is not None and not callable(progress):
        raise InputError(
            f"progress is {progress!r:.80}; it must be a function, which is called with rows done "
            "and rows in all."
        )


def _served(
    table: Table,
    state: TableState,
    target: Target,
    dims: int | None,
    store: str | None,
    base_model: str | None,
) -> Generation | None:
    """Return the generation whose vectors are those of the target already, if there is one."""
    served = same_documents(
        table,
        state,
        target.model,
        text_column=target.text_column,
        dims=dims,
        store=store,
        base_model=base_model,
    )
    return None if served is None else served.with_(source_column=target.text_column)


def _made_as(generation: Generation, encoder: Encoder) -> bool:
    """Say whether a generation is made in the encoder's precision, and by its backend."""
    details = generation.details
    made = (details.get("precision", encoder.precision), details.get("backend", "torch"))
    return made == (encoder.precision, encoder.backend)


def _verified(table: Table, generation: Generation, encoder: Encoder, job: GenerationJob) -> Check:
    """Verify; where rows were written since the fill, fill those and verify again."""
    for _ in range(_MAX_VERIFIED):
        try:
            return verify(table, generation, encoder, n=_sampled(generation, job))
        except VerifyError as error:
            cosine = error.report.get("min_cosine")
            if cosine is not None and not cosine >= MIN_COSINE:
                raise  # no writer that writes meanwhile does that
            job.fill()
    return verify(table, generation, encoder, n=_sampled(generation, job))


def _sampled(generation: Generation, job: GenerationJob) -> int | None:
    """Return how many rows to encode again; None: as many as for a whole table.

    What is shown was sampled before it was, and every row's mark is compared each time: the share
    is then that of the rows written now, so that mending 1 % of a table costs 1 % of filling it.
    """
    return sample_size(job.n_written) if generation.phase == "active" else None


def _already_active(
    table: Table, state: TableState, target: Target, *, re_embed: bool
) -> Generation | None:
    """Return the active generation if it is of this model and keeps hashes to mend it by.

    Where columns of it are gone, only ``re_embed`` makes another one: they may have been renamed.
    """
    active = state.active
    if active is None:
        return None
    # Its text need not be there where another one is embedded from now on.
    columns = active.with_(source_column=None)
    if re_embed and gone_columns(dataset(table).schema, columns):
        return None
    require_generations(table, state, columns)
    same = (
        active.hash_column is not None
        and active.fingerprint == target.fingerprint
        and active.dims == target.dims
        and active.source_column == target.text_column
    )
    return active if same else None
