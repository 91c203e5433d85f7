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

from lancedb_ft.errors.base import LancedbFtError
from lancedb_ft.errors.input import (
    BadDataError,
    BadRowsError,
    ColumnNotFoundError,
    FilterError,
    InputError,
    LeakError,
    MissingExtraError,
    QueryError,
    TableNotFoundError,
)
from lancedb_ft.errors.reindex import (
    EngineError,
    GateError,
    ReindexConflictError,
    ReindexError,
    ReindexRunningError,
    ReindexStateError,
    StorageError,
    TornManifestError,
    VerifyError,
)
from lancedb_ft.errors.search import (
    NoEmbedderError,
    NoPositionsError,
    NotBetterError,
    NoTextIndexError,
    PageExpiredError,
    RerankError,
    SearchError,
    SearchTimeoutError,
)
from lancedb_ft.errors.store import (
    AliasTakenError,
    FingerprintError,
    ManifestError,
    ModelInUseError,
    ModelKindError,
    ModelNotFoundError,
    StoreError,
    StoreNotFoundError,
    UnsafeModelError,
)
from lancedb_ft.errors.training import (
    NoGainError,
    RegressionError,
    TrainingError,
)

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
