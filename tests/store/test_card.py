"""The model card: front matter that Hugging Face reads, real figures, never a training text."""

import json
import struct
import zlib
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from pyarrow.fs import _MockFileSystem

from lancedb_ft.store import ModelStore, fingerprint_folder
from lancedb_ft.store.card import card

FIGURES = {
    "n": 300,
    "base": {"ndcg@10": {"mean": 0.3921, "ci95": [0.35, 0.43]}, "hit@5": {"mean": 0.5}},
    "tuned": {"ndcg@10": {"mean": 0.4618, "ci95": [0.4312, 0.4925]}, "hit@5": {"mean": 0.625}},
    "delta": {"ndcg@10": {"mean": 0.0697, "ci95": [0.05, 0.09], "p": 0.0001}},
}
MANIFEST = {
    "base": {"ref": "hf://sentence-transformers/all-MiniLM-L6-v2@abc", "fingerprint": "f0"},
    "parent": None,
    "table": {"database": "s3://secret-bucket/kb", "name": "docs", "version": 7},
    "data": {
        "fingerprint": "d" * 64,
        "n_pairs": 6000,
        "source": {"where": "text = 'SECRET of the data'"},
        "examples": ["SECRET question?"],
        "sample": "SECRET",
    },
    "training": {
        "loss": "mnrl",
        "learning_rate": 1e-4,
        "matryoshka_dims": [384, 128],
        "note": "SECRET of a note",
        "nested": {"text": "SECRET"},
    },
    "seed": 3,
    "metrics": {
        "dev": FIGURES,
        "probe": {"support@2 dev": FIGURES, "SECRET: how do I?": FIGURES},
        "per_query": {"SECRET question?": 1.0},
        "note": "SECRET",
    },
}
FULL = {
    "name": "support",
    "version": 3,
    "fingerprint": "a" * 64,
    "dims": 384,
    "created_at": "2026-01-02T03:04:05+00:00",
    **MANIFEST,
}


def front_matter(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_front_matter_is_what_hugging_face_reads():
    head, _ = front_matter(card(FULL))
    assert head["library_name"] == "sentence-transformers"
    assert head["pipeline_tag"] == "sentence-similarity"
    assert head["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert {"lancedb-ft", "sentence-transformers"} <= set(head["tags"])
    assert head["metrics"] == ["ndcg@10", "hit@5"]
    results = ModelCard(card(FULL)).data.eval_results
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in results] == [
        ("dev", "ndcg@10", 0.4618),
        ("dev", "hit@5", 0.625),
        ("probe support@2 dev", "ndcg@10", 0.4618),
        ("probe support@2 dev", "hit@5", 0.625),
    ]
    assert results[0].metric_name == "nDCG@10 (n = 300, 95 % interval 0.4312 to 0.4925)"
    assert results[0].task_type == "information-retrieval"


def test_the_body_has_figures_with_intervals_arguments_and_lineage():
    _, body = front_matter(card(FULL, picture=True))
    assert "# support@3" in body
    assert "**dev** (n = 300 queries)" in body
    row = next(line for line in body.splitlines() if line.startswith("| nDCG@10 |"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "nDCG@10",
        "0.3921 [0.3500, 0.4300]",
        "0.4618 [0.4312, 0.4925]",
        "+0.0697 [+0.0500, +0.0900]",
    ]
    for told in ("| loss | mnrl |", "| learning_rate | 0.0001 |", "| matryoshka_dims | 384, 128 |"):
        assert told in body
    assert "- table: docs, Lance version 7" in body
    assert "- n pairs: 6000" in body
    assert "- seed: 3" in body
    assert "](training.png)" in body
    assert "](training.png)" not in card(FULL)
    assert 'create(name="support@3")' in body
    assert "from sentence_transformers import SentenceTransformer" in body


def test_nothing_but_figures_settings_and_names_is_taken_over():
    text = card(FULL, picture=True)
    assert "SECRET" not in text
    assert "secret-bucket" not in text


def test_a_manifest_that_says_little_makes_a_card_all_the_same():
    little = {k: FULL[k] for k in ("name", "version", "fingerprint", "dims", "created_at")}
    head, body = front_matter(card(little))
    assert "base_model" not in head
    assert "model-index" not in head
    assert "- base: not recorded" in body
    assert "## Evaluation" not in body


@pytest.mark.parametrize(
    ("ref", "shown", "hub"),
    [
        ("/home/somebody/models/minilm", "minilm", None),
        ("support@2", "support@2", None),
        ("org/name", "org/name", "org/name"),
        ('x"\n- evil: yes', 'x"\n- evil: yes', None),
    ],
)
def test_the_base_is_named_without_telling_of_the_machine(ref, shown, hub):
    head, body = front_matter(card({**FULL, "base": {"ref": ref}}))
    assert f"- base: {shown}" in body
    assert head.get("base_model") == hub
    assert "evil" not in head


def png():
    """One white pixel."""

    def chunk(kind, data):
        return (
            struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00\xff"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("remote", [False, True])
def test_picture_and_rows_are_kept_and_change_no_fingerprint(tmp_path, tiny, remote):
    filesystem = _MockFileSystem() if remote else None
    store = ModelStore("mock://models" if remote else tmp_path / "store", filesystem=filesystem)
    rows = json.dumps({"train": "abc"}).encode()
    version = store.save(tiny, name="support", manifest=MANIFEST, picture=png(), rows=rows)
    plain = store.save(tiny, name="support")
    assert version.fingerprint == plain.fingerprint == fingerprint_folder(tiny)
    loaded = Path(store.load("support@1").path)
    assert (loaded / "training.png").read_bytes() == png()
    text = (loaded / "README.md").read_text()
    assert "](training.png)" in text
    assert ModelCard(text).data.eval_results[0].metric_value == 0.4618
    assert store.rows("support@1") == rows
    assert store.rows("support@2") is None
    assert not list(loaded.rglob("rows*"))
    store.delete("support@1")
    assert store.rows("support@1") is None
