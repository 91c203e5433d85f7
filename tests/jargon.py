"""A team's vocabulary, made up: documents in jargon, queries in plain words.

Each plain word has one jargon word, so a model that never saw the jargon cannot do better than
chance, and one that learned the words on some sentences is right on sentences it never saw.
"""

import json
import random

PLAIN = [
    "invoice",
    "refund",
    "password",
    "account",
    "delivery",
    "warranty",
    "contract",
    "payment",
    "printer",
    "network",
    "keyboard",
    "meeting",
    "holiday",
    "salary",
    "insurance",
    "customer",
    "supplier",
    "warehouse",
    "discount",
    "backup",
]
JARGON = [
    "blorf",
    "quindle",
    "zaspit",
    "mervo",
    "tharn",
    "okkle",
    "pludge",
    "vexil",
    "drimm",
    "sorrow-gate",
    "hubnib",
    "cravel",
    "yotch",
    "lempar",
    "fistule",
    "gorran",
    "weskit",
    "nabbly",
    "tropel",
    "jinth",
]
WORDS = dict(zip(PLAIN, JARGON, strict=True))


def sentences(n, seed=0):
    """Return ``n`` ``(query, document)`` texts; no two are near-duplicates."""
    rng = random.Random(seed)
    chosen = {}
    while len(chosen) < n:
        words = rng.sample(PLAIN, 5)
        chosen[frozenset(words)] = words
    made = []
    for words in chosen.values():
        jargon = [WORDS[word] for word in words]
        rng.shuffle(jargon)
        made.append((" ".join(words), " ".join(jargon)))
    return made


def write_files(folder, n=300, seed=0):
    """Write ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` into a folder."""
    made = sentences(n, seed)
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, (_, text) in enumerate(made)]
    queries = [{"_id": f"q{i}", "text": text} for i, (text, _) in enumerate(made)]
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(n))]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
