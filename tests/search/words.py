"""Tables whose right answers can be read by eye: a deterministic embedder, and its two models."""

import json
import zlib

import lance
import numpy as np
import pyarrow as pa
from lance import LanceOperation
from lancedb.embeddings import (
    EmbeddingFunctionConfig,
    TextEmbeddingFunction,
    get_registry,
    register,
)
from lancedb.index import FTS

from lancedb_ft.generation import STATE_KEY, Generation, TableState, parked_metadata

DIMS = 16
#: Every query one of these switches made, to see with which model a query was embedded.
embedded = []


@register("search-words")
class Words(TextEmbeddingFunction):
    """A text's vector is drawn from its hash: the same text is at distance 0, others far away.

    Vectors of the two models (``sign`` 1 and -1) point in opposite directions, so a query of one
    model in a column of the other finds its own text last.
    """

    sign: int = 1
    max_retries: int = 0

    def ndims(self):
        return DIMS

    def compute_query_embeddings(self, query, *args, **kwargs):
        embedded.append((self.sign, query))
        return super().compute_query_embeddings(query, *args, **kwargs)

    def generate_embeddings(self, texts):
        return [unit(text) * self.sign for text in texts]


def unit(text):
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def entry(sign, column):
    return {
        "name": "search-words",
        "model": {"sign": sign, "max_retries": 0},
        "source_column": "text",
        "vector_column": column,
    }


def rows(start, stop):
    return [
        {"id": f"d{i}", "text": f"document number {i}", "group": i % 3} for i in range(start, stop)
    ]


def words_table(db, name="docs", n_rows=60, *, stable_row_ids="true", fts=True):
    function = get_registry().get("search-words").create(sign=1, max_retries=0)
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("group", pa.int64()),
            ("vector", pa.list_(pa.float32(), DIMS)),
        ]
    )
    table = db.create_table(
        name,
        schema=schema,
        embedding_functions=[
            EmbeddingFunctionConfig(vector_column="vector", source_column="text", function=function)
        ],
        storage_options={"new_table_enable_stable_row_ids": stable_row_ids},
    )
    if n_rows:
        table.add(rows(0, n_rows))
    if fts:
        table.create_index("text", config=FTS())
    return table


def raw_table(db, name="raw", n_rows=20, *, fts=True):
    """A table with vectors that no function is known for."""
    texts = [f"document number {i}" for i in range(n_rows)]
    vectors = np.concatenate([unit(text) for text in texts])
    table = db.create_table(
        name,
        pa.table(
            {
                "id": [f"d{i}" for i in range(n_rows)],
                "text": texts,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMS),
            }
        ),
    )
    if fts:
        table.create_index("text", config=FTS())
    return table


class Switch:
    """The table's way from the model ``sign=1`` in ``vector`` to ``sign=-1`` in ``vector__g2``."""

    def __init__(self, table):
        self.uri = str(table.uri)

    def stage(self):
        lance.dataset(self.uri).add_columns(
            pa.field("vector__g2", pa.list_(pa.float32(), DIMS), metadata=parked_metadata(DIMS))
        )
        lance.dataset(self.uri).add_columns(pa.field("text_hash__g2", pa.int64()))
        ds = lance.dataset(self.uri)
        for fragment in ds.get_fragments():
            texts = fragment.to_table(columns=["text"])["text"].to_pylist()
            vectors = np.concatenate([-unit(text) for text in texts])
            group = self._data_file(fragment, vectors)
            ds = lance.LanceDataset.commit(
                ds, LanceOperation.DataReplacement([group]), read_version=ds.version
            )
        self._commit(shown="vector", parked="vector__g2", sign=1)

    def switch(self):
        self._commit(shown="vector__g2", parked="vector", sign=-1)

    def rollback(self):
        self._commit(shown="vector", parked="vector__g2", sign=1)

    def finish(self):
        """Keep the new column only."""
        state = TableState((self._generation(2, "vector__g2", -1, "active"),))
        self._update([entry(-1, "vector__g2")], state, {})
        lance.dataset(self.uri).drop_columns(["vector"])

    def _data_file(self, fragment, vectors):
        from lance.file import LanceFileWriter
        from lance.fragment import DataFile

        ds = lance.dataset(self.uri)
        array = pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMS)
        schema = pa.schema([pa.field("vector__g2", array.type)])
        name = f"g2-{fragment.fragment_id}.lance"
        path = f"{self.uri}/data/{name}"
        with LanceFileWriter(path, schema, version=ds.data_storage_version) as writer:
            writer.write_batch(pa.record_batch([array], schema=schema))
        like = fragment.data_files()[0]
        versions = like.file_major_version, like.file_minor_version
        field_id = self._field_ids()["vector__g2"]
        return LanceOperation.DataReplacementGroup(
            fragment.fragment_id, DataFile(name, [field_id], [0], *versions)
        )

    def _field_ids(self):
        return {f.name(): f.id() for f in lance.dataset(self.uri).lance_schema.fields()}

    def _generation(self, number, column, sign, phase):
        return Generation(
            number=number,
            column=column,
            dims=DIMS,
            phase=phase,
            source_column="text",
            function=entry(sign, column),
            hash_column="text_hash__g2" if number == 2 else None,
        )

    def _commit(self, *, shown, parked, sign):
        old, new = ("active", "ready") if sign == 1 else ("previous", "active")
        state = TableState(
            (
                self._generation(1, "vector", 1, old),
                self._generation(2, "vector__g2", -1, new),
            )
        )
        ids = self._field_ids()
        fields = {
            ids[shown]: dict.fromkeys(parked_metadata(DIMS)),
            ids[parked]: parked_metadata(DIMS),
        }
        self._update([entry(sign, shown), entry(-sign, parked)], state, fields)

    def _update(self, entries, state, fields):
        ds = lance.dataset(self.uri)
        operation = LanceOperation.UpdateConfig(
            schema_metadata_updates=LanceOperation.UpdateMap(
                {"embedding_functions": json.dumps(entries), STATE_KEY: state.to_json()}
            ),
            field_metadata_updates={
                field_id: LanceOperation.UpdateMap(changes) for field_id, changes in fields.items()
            },
        )
        lance.LanceDataset.commit(ds, operation, read_version=ds.version)
