"""Take docstrings out of Python source. Nothing is imported, nothing is run."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Docstring", "docstrings_of"]

_MAX_SIGNATURE_CHARS = 300
_MAX_SUMMARY_WORDS = 40
_MIN_SUMMARY_WORDS = 4
_MIN_BODY_WORDS = 12

#: Where a sentence ends: not after "e.g." and the like, and only before a new sentence.
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s+[A-Z`*:\"'(\[])")
_ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]+?)(?:\s*<[^`]*>)?`")
_MARKUP = re.compile(r"``?|\*\*|[*](?=\w)|(?<=\w)[*]|`_+")
#: A body of templates that another program fills in, or a summary that is a signature.
_SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)(\s*->.*)?$", re.DOTALL)

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef"


@dataclass(frozen=True)
class Docstring:
    """The documentation of one public function, method or class.

    Parameters
    ----------
    name
        Qualified name, such as ``json.decoder.JSONDecoder.decode``.
    kind
        ``function``, ``method`` or ``class``.
    signature
        Arguments and result as in the source, on one line; of a class, its bases.
    summary
        The first sentence, without markup.
    body
        Everything after it.
    """

    name: str
    kind: str
    signature: str
    summary: str
    body: str

    @property
    def text(self) -> str:
        """The document: name and signature, then the body without its summary."""
        return f"{self.name}{self.signature}\n{self.body}"


def docstrings_of(source: bytes, module: str) -> Iterator[Docstring]:
    """Yield what is documented in a module: public functions, classes and their public methods.

    A docstring counts if its summary has 4 to 40 words and its body at least 12.

    Parameters
    ----------
    source
        The file's bytes; its own coding line is obeyed.
    module
        Dotted name of the module.

    Raises
    ------
    SyntaxError, ValueError, RecursionError, MemoryError
        The source cannot be parsed by this version of Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the source of others
        tree = ast.parse(source)
    seen: set[str] = set()
    for definition, owner in _public_definitions(tree, ""):
        name = ".".join(filter(None, (module, owner, definition.name)))
        parts = _parts(ast.get_docstring(definition, clean=False), definition.name)
        # A property and its setter, an overload, the branches of an if: the first one counts.
        if parts is not None and name not in seen:
            seen.add(name)
            kind = "class" if isinstance(definition, ast.ClassDef) else "method"
            if kind == "method" and not owner:
                kind = "function"
            yield Docstring(name, kind, _signature(definition), *parts)


def _public_definitions(parent: ast.AST, owner: str) -> Iterator[tuple[Definition, str]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _public_definitions(node, owner)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name.startswith("_"):
                continue
            yield node, owner
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node, f"{owner}.{node.name}".lstrip("."))


def _parts(docstring: str | None, name: str) -> tuple[str, str] | None:
    """Return summary and body, or None if they are too short, too long or templates."""
    if docstring is None or len(docstring) < 60:
        return None
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    # Some docstrings begin with the signature, as those of extension modules do.
    if _SIGNATURE.match(paragraphs[0]) and paragraphs[0].lstrip().startswith(name):
        paragraphs = paragraphs[1:]
    if not paragraphs:
        return None
    first = " ".join(paragraphs[0].split())
    end = _SENTENCE_END.search(first)
    sentence, rest = (first, "") if end is None else (first[: end.end()], first[end.end() :])
    summary = _plain(sentence)
    body = "\n\n".join(filter(None, [rest.strip(), *paragraphs[1:]])).strip()
    n_summary, n_body = len(summary.split()), len(body.split())
    if not _MIN_SUMMARY_WORDS <= n_summary <= _MAX_SUMMARY_WORDS or n_body < _MIN_BODY_WORDS:
        return None
    if any("\ud800" <= c <= "\udfff" for c in summary + body):
        return None  # escapes that are no characters cannot be stored as text
    return summary, body


def _plain(sentence: str) -> str:
    """Take reStructuredText's and Markdown's markup off a sentence."""
    return " ".join(_MARKUP.sub("", _ROLE.sub(r"\1", sentence)).split())


def _signature(definition: Definition) -> str:
    if isinstance(definition, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in definition.bases)
        signature = f"({bases})" if bases else ""
    else:
        result = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
        signature = f"({ast.unparse(definition.args)}){result}"
    signature = " ".join(signature.split())
    if len(signature) > _MAX_SIGNATURE_CHARS:
        signature = f"{signature[:_MAX_SIGNATURE_CHARS].rsplit(',', 1)[0]}, ...)"
    return signature.encode("utf-8", "replace").decode()
