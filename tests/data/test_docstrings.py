"""API documentation read from source: nothing imported, nothing lost, nothing leaking."""

import json as real_json
import sys
from pathlib import Path

import pytest

from lancedb_ft.data import api_docs_split, audit, read_api_docs
from lancedb_ft.data.docstring_source import docstrings_of
from lancedb_ft.errors import InputError

BODY = "The long body says in more than twelve words what the first line only hinted at, or so."


def function(name, summary, body=BODY, indent=""):
    doc = f'{indent}def {name}(a, b: int = 3) -> str:\n{indent}    """{summary}\n\n'
    return doc + f'{indent}    {body}\n{indent}    """\n\n'


@pytest.fixture
def site(tmp_path):
    """A site-packages with everything that could trip a reader."""
    root = tmp_path / "site-packages"

    def write(path, content, encoding="utf-8"):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode(encoding))

    write("boom.py", f"raise SystemExit('imported')\n{function('go', 'Go to the far away place.')}")
    write("broken/__init__.py", '"""Doc."""\ndef (:\n')
    write(
        "latin.py",
        "# -*- coding: latin-1 -*-\n" + function("cafe", "Serve the café to guests."),
        "latin-1",
    )
    write("nul.py", '"""x"""\0')
    write("escapes.py", function("regex", "Match a \\d digit in text.", f"A \\w body. {BODY}"))
    write("pkg/tests/test_x.py", function("helper", "Help the tests of this package."))
    write("pkg/_vendor/requests.py", function("get", "Get the page at a URL."))
    write("pkg/test_me.py", function("helper", "Help the tests of this package."))
    write("pkg-1.0.dist-info/x.py", function("no", "Not a module at all, this."))
    write("_private.py", function("inner", "Work for another module only."))
    write("copy/__init__.py", function("go", "Go to the far away place."))
    classes = (
        'class Box(dict, metaclass=type):\n    """Hold the things that belong together.\n\n'
        f'    {BODY} Of the class.\n    """\n\n'
        + function("open", "Open the box and look inside.", f"{BODY} Open.", "    ")
        + function("_hide", "Hide the box from the others.", f"{BODY} Hide.", "    ")
    )
    write("pkg/__init__.py", classes)
    write("pkg/more/deep.py", function("dig", "Dig deeper than the others.", f"{BODY} Deep."))
    return root


def test_what_is_read_from_a_site_packages(site):
    docs = read_api_docs(paths=[site])
    ids = docs.corpus["id"].to_pylist()
    go = {"boom.go", "copy.go"} & set(ids)
    assert len(go) == 1, "the copy is left out"
    assert set(ids) - go == {
        "latin.cafe",
        "escapes.regex",
        "pkg.Box",
        "pkg.Box.open",
        "pkg.more.deep.dig",
    }
    assert "boom" not in sys.modules
    row = next(row for row in docs.corpus.to_pylist() if row["id"] == "pkg.Box.open")
    assert row["text"] == f"pkg.Box.open(a, b: int=3) -> str\n{BODY} Open."
    assert (row["module"], row["kind"]) == ("pkg", "method")
    assert set(docs.pairs.queries.values()) >= {
        "Open the box and look inside.",
        "Serve the café to guests.",
    }
    assert docs.counts["copies"] == 1
    assert docs.counts["unparsable files"] == 2
    assert docs.modules["pkg.more.deep.dig"] == "pkg"


def test_the_json_package_of_the_standard_library():
    docs = read_api_docs(paths=[Path(real_json.__file__).parents[1]])
    texts = dict(zip(docs.corpus["id"].to_pylist(), docs.corpus["text"].to_pylist(), strict=True))
    text = texts["json.load"]
    assert text.startswith("json.load(fp, *, cls=None, object_hook=None,")
    query = next(q for q in docs.pairs.table.to_pylist() if q["doc_id"] == "json.load")["query"]
    assert query.startswith("Deserialize fp (a .read()-supporting file-like object")
    assert query not in text
    assert not any(name.startswith(("test.", "idlelib.", "site-packages")) for name in texts)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (f"Do the first thing.\n\n{BODY}", ("Do the first thing.", BODY)),
        (f"Do the first\nthing here. And more.\n\n{BODY}", ("Do the first thing here.", None)),
        (f"Return e.g. Values of `x`.\n\n{BODY}", ("Return e.g. Values of x.", BODY)),
        (f"Call :class:`~a.b.C` and **it** now.\n\n{BODY}", ("Call a.b.C and it now.", BODY)),
        (f"f(a, b) -> c\n\nAdd the two numbers up.\n\n{BODY}", ("Add the two numbers up.", BODY)),
        (f"Too short.\n\n{BODY}", None),
        ("Do the first thing.\n\nToo short a body.", None),
        (f"{'word ' * 50}\n\n{BODY}", None),
    ],
)
def test_summary_and_body(docstring, expected):
    source = f'def f(a, b):\n    """{docstring}"""\n'
    found = [(doc.summary, doc.body) for doc in docstrings_of(source.encode(), "m")]
    if expected is None:
        assert found == []
    else:
        assert found[0][0] == expected[0]
        assert found[0][1] == (expected[1] or f"And more.\n\n{BODY}")


def test_branches_overloads_and_long_signatures():
    long = ", ".join(f"argument_{i}=None" for i in range(60))
    source = (
        "try:\n    import x\nexcept ImportError:\n"
        + function("f", "Do it the slow way.", indent="    ")
        + "else:\n"
        + function("f", "Do it the fast way.", indent="    ")
        + f'async def g({long}):\n    """Take very many arguments at once.\n\n    {BODY}\n    """\n'
    )
    found = list(docstrings_of(source.encode(), "m"))
    assert [doc.name for doc in found] == ["m.f", "m.g"]
    assert len(found[1].signature) <= 310
    assert found[1].signature.endswith(", ...)")


def test_a_summary_of_many_documents_is_no_query(tmp_path):
    shared = "".join(
        function(f"{kind}{i}", f"Return the {kind} of this object.", f"{BODY} {kind} number {i}.")
        for kind, n in (("copy", 4), ("size", 3))
        for i in range(n)
    )
    (tmp_path / "m.py").write_text(shared)
    docs = read_api_docs(paths=[tmp_path])
    assert len(docs) == 7
    assert len(docs.pairs) == 3
    assert [len(relevant) for relevant in docs.pairs.qrels.values()] == [3]
    assert docs.counts["generic summaries"] == 1


@pytest.fixture
def many_modules(tmp_path):
    for m in range(40):
        functions = [
            function(
                f"f{i}",
                f"Summary word{m}a{i} talks about thing{m}b{i} only.",
                " ".join(f"w{m}x{i}y{k}" for k in range(14)),
            )
            for i in range(3 if m else 60)
        ]
        functions.append(
            function("near", f"Unlike{m} the others{m} this one{m}.", f"{BODY * 4} {m}.")
        )
        (tmp_path / f"mod{m}.py").write_text("".join(functions))
    return tmp_path


def test_the_split_is_by_module_and_clean(many_modules):
    docs = read_api_docs(paths=[many_modules])
    split = api_docs_split(docs, seed=1)
    modules = docs.modules
    parts = [{modules[d] for d in part.corpus} for part in split.parts().values()]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert "mod0" in parts[0], "the large module stands in train"
    assert audit(split).check().ok
    assert split.info["dropped"]["train"] > 10, "copies of what dev and test have"
    assert len(split.test) == pytest.approx(0.15 * len(docs.pairs), rel=0.3)
    assert len(split.dev) == pytest.approx(0.10 * len(docs.pairs), rel=0.4)
    again = api_docs_split(read_api_docs(paths=[many_modules]), seed=1)
    assert again.train.fingerprint == split.train.fingerprint
    assert set(api_docs_split(docs, seed=2).test.corpus) != set(split.test.corpus)
    assert len(api_docs_split(docs, max_test=7, max_dev=5).test) == 7


def test_documents_with_one_query_stay_together(tmp_path):
    for m in range(30):
        own = "".join(
            function(f"f{i}", f"Only word{m}a{i} is what this{m} says.", f"{m} {i} {BODY}")
            for i in range(3)
        )
        both = function("both", f"Pair number{m // 2} talks of twins.", f"{m} both {m} {BODY}")
        (tmp_path / f"mod{m}.py").write_text(own + both)
    docs = read_api_docs(paths=[tmp_path])
    split = api_docs_split(docs, threshold=1.0)
    for part in split.parts().values():
        for query_id, relevant in part.qrels.items():
            assert relevant == docs.pairs.qrels[query_id]


def test_a_limit_is_a_deterministic_sample(many_modules):
    seen = []
    docs = read_api_docs(paths=[many_modules], limit=50, progress=lambda *step: seen.append(step))
    assert len(docs) == 50
    assert seen[-1] == (50, 50)
    again = read_api_docs(paths=[many_modules], limit=50)
    assert again.corpus.equals(docs.corpus)
    other = read_api_docs(paths=[many_modules], limit=50, seed=9)
    assert not other.corpus.equals(docs.corpus)
    read_api_docs(paths=[many_modules], progress=lambda *step: seen.append(step))
    assert seen[-1] == (40, 40)


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_api_docs(paths=[tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no documented"):
        read_api_docs(paths=[tmp_path])
    with pytest.raises(InputError, match="limit"):
        read_api_docs(limit=0)
    (tmp_path / "one.py").write_text(function("f", "Say something about this one."))
    with pytest.raises(InputError, match="1 top-level modules cannot be divided"):
        api_docs_split(read_api_docs(paths=[tmp_path]))
