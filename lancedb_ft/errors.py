"""Every error lancedb-ft raises on purpose.

::

    LancedbFtError
    ├── InputError                  what was passed cannot be used
    │   ├── TableNotFoundError
    │   ├── ColumnNotFoundError
    │   ├── BadRowsError            too many rows of a file or a table were rejected
    │   ├── BadDataError            an audit named an error in training data
    │   ├── LeakError               the same or nearly the same text in two parts of a split
    │   ├── FilterError             a ``where`` that LanceDB cannot parse
    │   └── QueryError              a query that cannot be run as asked
    ├── MissingExtraError           an optional dependency is not installed
    ├── StoreError
    │   ├── StoreNotFoundError
    │   ├── ModelNotFoundError
    │   ├── ModelInUseError         refused: a table searches with it
    │   ├── ManifestError           the manifest is missing, torn or of a newer version
    │   ├── FingerprintError        the weights are not those the table was made with
    │   ├── ModelKindError          a reranker where an embedder is needed, or the other way
    │   └── UnsafeModelError        loading the folder could run code
    ├── AliasTakenError             another class is registered as "ft-embed"
    ├── TrainingError
    │   ├── NoGainError             no checkpoint beats the base model: nothing saved
    │   └── RegressionError         those that do lose too much elsewhere: nothing saved
    ├── ReindexError
    │   ├── ReindexStateError       the table is not in a state that allows this step
    │   ├── ReindexRunningError     another process is re-indexing this table
    │   ├── ReindexConflictError    other writers committed first each time
    │   ├── VerifyError             vectors are missing, stale or of another model
    │   ├── StorageError            no room, or the storage may not be written to
    │   ├── EngineError             a worker, or its cluster, cannot do its part
    │   └── GateError               the gate said no: the table was left as it was
    ├── TornManifestError           the newest version of a table was written in part only
    └── SearchError
        ├── NoTextIndexError        full-text search without a full-text index
        ├── RerankError             a reranker failed or was late, where that may not pass
        ├── NoPositionsError        a phrase, and an index that does not know where words stand
        ├── PageExpiredError        the version that the pages are of was cleaned up
        ├── SearchTimeoutError      nothing was found before the time was over
        ├── NotBetterError          what was learned on judged queries does not win: not saved
        └── NoEmbedderError         a text query on a table that names no model

Every error keeps what it found as attributes and survives pickling. ``exit_code`` is what the
command line ends with: 1 failed, 2 wrong usage, 3 a gate or a verdict said no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "AliasTakenError",
    "BadDataError",
    "BadRowsError",
    "ColumnNotFoundError",
    "EngineError",
    "FilterError",
    "FingerprintError",
    "GateError",
    "InputError",
    "LancedbFtError",
    "LeakError",
    "ManifestError",
    "MissingExtraError",
    "ModelInUseError",
    "ModelKindError",
    "ModelNotFoundError",
    "NoEmbedderError",
    "NoGainError",
    "NoPositionsError",
    "NoTextIndexError",
    "NotBetterError",
    "PageExpiredError",
    "QueryError",
    "RegressionError",
    "ReindexConflictError",
    "ReindexError",
    "ReindexRunningError",
    "ReindexStateError",
    "RerankError",
    "SearchError",
    "SearchTimeoutError",
    "StorageError",
    "StoreError",
    "StoreNotFoundError",
    "TableNotFoundError",
    "TornManifestError",
    "TrainingError",
    "UnsafeModelError",
    "VerifyError",
]


def _rebuild(
    cls: type[LancedbFtError], args: tuple[Any, ...], state: dict[str, Any]
) -> LancedbFtError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def _listing(names: Iterable[str], limit: int = 20) -> str:
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class LancedbFtError(Exception):
    """Base of all errors of this package."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call cls(*args), and our signatures are not one message.
        return _rebuild, (type(self), self.args, self.__dict__)


# --- input ---------------------------------------------------------------------------------


class InputError(LancedbFtError, ValueError):
    """An argument, a file or a table cannot be used as given."""

    exit_code = 2


class TableNotFoundError(InputError):
    """The database has no such table."""

    def __init__(self, name: str, *, uri: str, available: Iterable[str] = ()) -> None:
        self.name = name
        self.uri = uri
        self.available = list(available)
        super().__init__(
            f"No table {name!r} in the database {uri!r}; it has {_listing(self.available)}."
        )


class ColumnNotFoundError(InputError):
    """The table has no such column, or the column has the wrong type."""

    def __init__(
        self, column: str, *, table: str, available: Iterable[str] = (), expected: str = ""
    ) -> None:
        self.column = column
        self.table = table
        self.available = list(available)
        self.expected = expected
        wanted = f" ({expected})" if expected else ""
        super().__init__(
            f"Table {table!r} has no column {column!r}{wanted}; "
            f"its columns are {_listing(self.available)}."
        )


class BadRowsError(InputError):
    """More rows were rejected than the caller allows. Nothing was written."""

    def __init__(self, source: str, *, n_rows: int, reasons: Mapping[str, int]) -> None:
        self.source = source
        self.n_rows = n_rows
        self.reasons = dict(reasons)
        told = "; ".join(f"{n} x {reason}" for reason, n in self.reasons.items()) or "no rows"
        super().__init__(
            f"{source}: {sum(self.reasons.values())} of {n_rows} rows rejected: {told}."
        )


class BadDataError(InputError):
    """An audit named errors in training data: training on it would teach what is wrong."""

    exit_code = 3

    def __init__(self, problems: Iterable[Mapping[str, Any]]) -> None:
        self.problems = [dict(problem) for problem in problems]
        told = " ".join(f"{p['name']} in {p['where']}: {p['told']}" for p in self.problems)
        super().__init__(f"The audit refuses this data. {told}")


class LeakError(InputError):
    """A document or query of one part of the split stands, as good as unchanged, in another."""

    exit_code = 3

    def __init__(self, message: str, *, n_leaks: int, examples: Iterable[Any] = ()) -> None:
        self.n_leaks = n_leaks
        self.examples = list(examples)
        super().__init__(message)


class FilterError(InputError):
    """The ``where`` expression is not valid SQL for this table."""

    def __init__(self, where: str, *, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(
            f"The filter {where!r} is not valid: {reason} Use SQL over the table's columns, with "
            "text in single quotes and a quote inside it doubled: name = 'O''Brien'."
        )


class QueryError(InputError):
    """The query cannot be run as asked."""


class MissingExtraError(LancedbFtError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        self.purpose = purpose
        super().__init__(
            f'{purpose} needs {package}. Install it with: pip install "lancedb-ft[{extra}]"'
        )


# --- store ---------------------------------------------------------------------------------


class StoreError(LancedbFtError):
    """A model store or a model in it cannot be used."""


class StoreNotFoundError(StoreError):
    """There is no model store at this place, or none was named."""

    def __init__(self, uri: str | None, *, reference: str = "") -> None:
        self.uri = uri
        self.reference = reference
        found = f"There is no model store at {uri!r}." if uri else "No model store was named."
        wanted = f" It is needed for {reference!r}." if reference else ""
        super().__init__(
            f"{found}{wanted} Pass store=URI, or set the environment variable LANCEDB_FT_STORE, or "
            'call get_registry().set_var("ft_store", URI). The default place is the folder '
            "'ft_models' inside the LanceDB database."
        )


class ModelNotFoundError(StoreError):
    """The reference names no model."""

    def __init__(
        self, reference: str, *, store: str = "", available: Iterable[str] = (), reason: str = ""
    ) -> None:
        self.reference = reference
        self.store = store
        self.available = list(available)
        self.reason = reason
        place = f" in the store {store!r}, which has {_listing(self.available)}" if store else ""
        why = f": {reason}" if reason else "."
        super().__init__(
            f"No model {reference!r}{place}{why} A model is named by 'name@version' in a store, by "
            "the path of a sentence-transformers folder, or by 'hf://org/name@revision'."
        )


class ModelInUseError(StoreError):
    """The version cannot be deleted while tables search with it."""

    exit_code = 3

    def __init__(self, reference: str, *, tables: Iterable[str]) -> None:
        self.reference = reference
        self.tables = list(tables)
        super().__init__(
            f"{reference} is used by {_listing(self.tables)}. Re-index and finish those tables "
            "first, or delete it with force=True (--force): their text queries will then fail."
        )


class ManifestError(StoreError):
    """The manifest of a model version cannot be read."""

    def __init__(self, path: str, *, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"The manifest {path!r} cannot be used: {reason}")


class FingerprintError(StoreError):
    """The weights found are not those that were recorded."""

    def __init__(self, reference: str, *, expected: str, found: str) -> None:
        self.reference = reference
        self.expected = expected
        self.found = found
        super().__init__(
            f"{reference!r} has the fingerprint {found[:12]}, and {expected[:12]} was recorded: "
            "these are other weights, and searching with them would give wrong answers. Put the "
            "recorded model back, or re-index the table with this one: lancedb-ft reindex run."
        )


class ModelKindError(StoreError):
    """The model is of another kind: a reranker where an embedder is needed, or the other way."""

    exit_code = 2

    def __init__(self, reference: str, *, found: str, expected: str) -> None:
        self.reference = reference
        self.found = found
        self.expected = expected
        what = {
            "cross-encoder": "a cross-encoder: it scores a query with a text and makes no vectors. "
            f"Rerank with it, FineTunedReranker({reference!r}), and name an embedding model here",
            "embedder": "an embedding model: it makes vectors and scores no pairs. Search with it, "
            "and name a cross-encoder here; train_reranker() makes one",
        }.get(found, f"a {found}, and a {expected} is needed")
        super().__init__(f"{reference!r} is {what}.")


class UnsafeModelError(StoreError):
    """Loading this folder could run code that it brings along."""

    def __init__(self, path: str, *, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"The model folder {path!r} is refused: {reason} Only safetensors weights and "
            "sentence-transformers' own modules are loaded."
        )


class AliasTakenError(LancedbFtError):
    """Another class holds the alias in LanceDB's registry."""

    def __init__(self, alias: str, *, holder: str) -> None:
        self.alias = alias
        self.holder = holder
        super().__init__(
            f"The embedding registry already has {holder} as {alias!r}. Importing lancedb_ft would "
            "silently replace it and break tables that use it: give that class another alias, or "
            "do not import both in one process."
        )


# --- training ------------------------------------------------------------------------------


class TrainingError(LancedbFtError):
    """Training could not be run or finished."""


class NoGainError(TrainingError):
    """No checkpoint was better than the base model on the dev set. Nothing was saved."""

    exit_code = 3

    def __init__(
        self,
        *,
        metric: str,
        base: float,
        best: float,
        n_queries: int,
        than: str = "the base model",
    ) -> None:
        self.metric = metric
        self.base = base
        self.best = best
        self.n_queries = n_queries
        self.than = than
        super().__init__(
            f"No checkpoint beats {than} on the dev set: {metric} {best:.4f} at best, base "
            f"{base:.4f} (n = {n_queries}). Nothing was saved, keep {than}. More or "
            "cleaner pairs, or a lower learning rate, may change that."
        )


class RegressionError(TrainingError):
    """What gains on the dev set loses more than allowed on a probe. Nothing was saved."""

    exit_code = 3

    def __init__(
        self,
        *,
        probe: str,
        base: float,
        tuned: float,
        n_queries: int,
        max_regression: float,
        metric: str,
        probe_metric: str = "ndcg@10",
        dev_base: float,
        dev_tuned: float,
    ) -> None:
        self.probe = probe
        self.base = base
        self.tuned = tuned
        self.n_queries = n_queries
        self.max_regression = max_regression
        self.metric = metric
        self.probe_metric = probe_metric
        self.dev_base = dev_base
        self.dev_tuned = dev_tuned
        super().__init__(
            f"Whatever beats the base model on the dev set forgets too much: on {probe!r} "
            f"{probe_metric} falls from {base:.4f} to {tuned:.4f} (n = {n_queries}), and "
            f"{max_regression:g} is allowed, where {metric} on dev rises most, from "
            f"{dev_base:.4f} to {dev_tuned:.4f}. "
            "Nothing was saved. Use a lower learning rate, go part of the way with "
            "interpolate=True (--interpolate), train on older data too with replay= (--replay), or "
            "allow more with max_regression= (--max-regression)."
        )


# --- re-indexing ---------------------------------------------------------------------------


class ReindexError(LancedbFtError):
    """A re-index step failed. The table still searches as before the step."""


class ReindexStateError(ReindexError):
    """The step does not fit the state of the table."""

    exit_code = 2

    def __init__(self, message: str, *, table: str, state: str) -> None:
        self.table = table
        self.state = state
        super().__init__(message)


class ReindexRunningError(ReindexError):
    """Another process is re-indexing this table."""

    def __init__(self, table: str, *, owner: str) -> None:
        self.table = table
        self.owner = owner
        super().__init__(
            f"Table {table!r} is being re-indexed by {owner}. Wait for it, or stop that process: "
            "the same command then goes on from where it was."
        )


class ReindexConflictError(ReindexError):
    """Other writers committed first each time; the table is as it was before the step."""

    def __init__(self, what: str, *, attempts: int, last: str) -> None:
        self.what = what
        self.attempts = attempts
        self.last = last
        super().__init__(
            f"Gave up to {what} after {attempts} attempts: other writers committed first each "
            f"time. The table is as it was; run the same command again when it is quieter. ({last})"
        )


class VerifyError(ReindexError):
    """Vectors of the new generation are missing, stale, or not of the named model."""

    def __init__(self, message: str, *, table: str, report: Mapping[str, Any]) -> None:
        self.table = table
        self.report = dict(report)
        super().__init__(message)


class EngineError(ReindexError):
    """A worker of an engine, or its cluster, cannot do its part; what was committed stays."""

    def __init__(self, message: str, *, node: str = "") -> None:
        self.node = node
        super().__init__(f"The worker on {node} {message}" if node else message)


class GateError(ReindexError):
    """The gate said no."""

    exit_code = 3

    def __init__(
        self, failed: Iterable[str], *, report: Mapping[str, Any], staged: bool = True
    ) -> None:
        self.failed = list(failed)
        self.report = dict(report)
        self.staged = staged
        undo = (
            "or remove the new vectors: lancedb-ft reindex finish --abandon"
            if staged
            else "or do nothing: only queries would have changed, and nothing was written"
        )
        super().__init__(
            f"The gate said no: {'; '.join(self.failed)}. The table still searches with the old "
            f"model. Switch anyway with force=True (--force), {undo}."
        )


class StorageError(ReindexError):
    """The storage of the table, or of its model store, took no more writes.

    ``reason`` is ``full``, ``read-only`` or ``forbidden``; ``told`` is what the system said.
    """

    def __init__(self, table: str, *, reason: str, told: str) -> None:
        self.table = table
        self.reason = reason
        self.told = told
        cure = {
            "full": "There is no room left: make some (lancedb-ft reindex plan tells how much)",
            "read-only": "The storage is read-only: make it writable",
            "forbidden": "This user may not write there: give it the right to",
        }[reason]
        super().__init__(
            f"Re-indexing table {table!r} stopped at a write that failed. {cure}, and run the same "
            f"command again: it goes on where it stopped. The table is whole, and searches as "
            f"before. ({told})"
        )


class TornManifestError(LancedbFtError):
    """The file of a table's newest version is cut off, so the table cannot be opened."""

    def __init__(self, table: str, *, path: str, n_bytes: int, version: int) -> None:
        self.table = table
        self.path = path
        self.n_bytes = n_bytes
        self.version = version
        super().__init__(
            f"Table {table!r} cannot be opened: the manifest of its newest version {version} is "
            f"cut off after {n_bytes} bytes, as when the power fails while it is written. All "
            f"earlier versions are whole. Go back to version {version - 1}, which lacks that one "
            f"commit, by renaming the file: mv '{path}' '{path}.torn', and run the same command "
            "again."
        )


# --- search --------------------------------------------------------------------------------


class SearchError(LancedbFtError):
    """A search could not be answered."""


class NoTextIndexError(SearchError):
    """Full-text or hybrid search needs a full-text index."""

    def __init__(self, table: str, *, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"Table {table!r} has no full-text index on {column!r}. Build it with "
            f'table.create_index({column!r}, config=FTS()), or search with mode="vector".'
        )


class NotBetterError(SearchError):
    """What was learned on judged queries does not beat what is served already. Nothing was saved.

    ``evidence`` holds the figures.
    """

    exit_code = 3

    def __init__(
        self, what: str, *, than: str, metric: str, evidence: Mapping[str, Any], cure: str
    ) -> None:
        self.what = what
        self.than = than
        self.metric = metric
        self.evidence = dict(evidence)
        delta = self.evidence["delta"][metric]
        low, high = delta["ci95"]
        super().__init__(
            f"{what} does not beat {than} for sure: {metric} {delta['mean']:+.4f} "
            f"[{low:+.4f}, {high:+.4f}] (n = {self.evidence['n']}), and the interval must lie "
            f"above 0. Nothing was saved. {cure}"
        )


class RerankError(SearchError):
    """A reranker gave no order: its service failed, was late, or said what makes no sense.

    ``reason`` is short and without anything of a query, a text or a key. ``detail`` is what the
    service said. ``permanent`` failures, as a refused key, are not cured by trying again;
    ``retry_after_s`` is how long the service asked to be left alone.
    """

    def __init__(
        self,
        reranker: str,
        *,
        reason: str,
        detail: str = "",
        permanent: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.reranker = reranker
        self.reason = reason
        self.detail = detail
        self.permanent = permanent
        self.retry_after_s = retry_after_s
        told = f" It said: {detail}" if detail else ""
        super().__init__(f"{reranker} gave no order: {reason}.{told}")


class NoPositionsError(SearchError):
    """A phrase needs a full-text index that knows where in a text its words stand."""

    def __init__(self, table: str, *, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"The full-text index on {column!r} of table {table!r} has no positions, which a "
            f"phrase needs. Build it anew with table.create_index({column!r}, "
            "config=FTS(with_position=True)), or search with words='all'."
        )


class PageExpiredError(SearchError):
    """The version of the table that the pages are of cannot be read any more."""

    def __init__(self, table: str, *, version: int, reason: str) -> None:
        self.table = table
        self.version = version
        self.reason = reason
        super().__init__(
            f"Version {version} of table {table!r}, which these pages are of, cannot be read: "
            f"{reason} Start again with page='first'."
        )


class SearchTimeoutError(SearchError):
    """No leg of the search was done when its time was over."""

    def __init__(self, table: str, *, budget_ms: float, late: Iterable[str]) -> None:
        self.table = table
        self.budget_ms = budget_ms
        self.late = list(late)
        super().__init__(
            f"The search of table {table!r} found nothing in its {budget_ms:g} ms: late were "
            f"{_listing(self.late)}. An empty answer would read as 'nothing matches'. Give it more "
            "with budget_ms=, or see where the time goes: lancedb_ft.explain."
        )


class NoEmbedderError(SearchError):
    """There is no embedding function to embed a text query with.

    The table names none, or it names an ``alias`` that nothing in this process has registered.
    """

    def __init__(self, table: str, *, columns: Iterable[str] = (), alias: str = "") -> None:
        self.table = table
        self.columns = list(columns)
        self.alias = alias
        found = (
            f"Table {table!r} names the embedding function {alias!r} for {_listing(self.columns)}, "
            "and nothing in this process has registered it, so a text query cannot be embedded. "
            "Import the module that registers it,"
            if alias
            else f"Table {table!r} names no embedding function for a vector column (it has "
            f"{_listing(self.columns)}), so a text query cannot be embedded. Re-index it with "
            "lancedb-ft reindex run,"
        )
        super().__init__(f'{found} pass embedder=..., or search with mode="fts".')
