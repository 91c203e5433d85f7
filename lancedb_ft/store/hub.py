"""Models of the Hugging Face Hub: only the files that may be loaded, at one commit."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from fnmatch import fnmatch
from pathlib import Path

from lancedb_ft.errors import MissingExtraError, ModelNotFoundError, UnsafeModelError
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.store.trust import HUB_PATTERNS, check_folder

__all__ = ["fetch_from_hub"]

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
#: For the one request that asks whether a revision is there. It is not repeated: an unreachable Hub
#: must be told at once, not after minutes of waiting.
_TIMEOUT_S = 10.0


def fetch_from_hub(repo: str, revision: str | None, *, cure: str = "") -> tuple[Path, str]:
    """Return the folder of a model of the Hub, and the commit it is of.

    A commit that is in the cache of ``huggingface_hub`` needs no network. Another revision is asked
    for, and taken from the cache if the Hub cannot be reached.

    Parameters
    ----------
    repo
        ``org/name``.
    revision
        Branch, tag or commit; None for the main branch.
    cure
        What else can be done if the Hub cannot be reached.

    Raises
    ------
    ModelNotFoundError
        There is no such model or revision, or the Hub cannot be reached.
    MissingExtraError
        huggingface_hub is not installed.
    UnsafeModelError
        The model is not plain data.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "huggingface_hub", extra="encode", purpose=f"Loading {repo!r} from the Hub"
        ) from error
    wanted = revision or "main"
    if _COMMIT.fullmatch(wanted):
        cached = _snapshot(repo, wanted, offline=True)
        if cached is not None:
            return _checked(cached, repo), wanted
    # Asked by its name, so that the cache learns which commit the name meant; a snapshot's folder
    # is named after its commit.
    folder = _snapshot(repo, wanted, offline=not _is_there(repo, wanted, cure))
    if folder is None:
        raise _unreachable(repo, wanted, cure)
    return _checked(folder, repo), folder.name


def _is_there(repo: str, revision: str, cure: str) -> bool:
    """Ask the Hub once; False if it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The base class of their errors is that of the HTTP library, another one in each major version.
    unreachable: tuple[type[Exception], ...] = (
        OSError,
        *(b for b in HfHubHTTPError.__bases__ if issubclass(b, Exception)),
    )
    try:
        HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        reason = "it is gated: ask for access on its page, and log in with 'hf auth login'."
        raise ModelNotFoundError(f"{repo}@{revision}", reason=reason) from error
    except RepositoryNotFoundError as error:
        reason = (
            f"the Hub has no such model, or it is private (log in with 'hf auth login'). {cure}"
        )
        raise ModelNotFoundError(f"{repo}@{revision}", reason=reason.strip()) from error
    except RevisionNotFoundError as error:
        reason = f"the model {repo!r} has no branch, tag or commit {revision!r} on the Hub."
        raise ModelNotFoundError(f"{repo}@{revision}", reason=reason) from error
    except HFValidationError as error:
        raise ModelNotFoundError(f"{repo}@{revision}", reason=str(error)) from error
    except unreachable:
        return False
    return True


def _snapshot(repo: str, revision: str, *, offline: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(HUB_PATTERNS),
            local_files_only=offline,
            etag_timeout=_TIMEOUT_S,
        )
    except (LocalEntryNotFoundError, ValueError):
        return None
    except HfHubHTTPError as error:
        raise ModelNotFoundError(f"{repo}@{revision}", reason=f"the Hub says: {error}") from error
    return Path(folder)


def _unreachable(repo: str, revision: str, cure: str) -> ModelNotFoundError:
    off = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    why = "HF_HUB_OFFLINE is set" if off else "the Hugging Face Hub cannot be reached"
    reason = f"it is not on this machine, and {why}. {cure}".strip()
    return ModelNotFoundError(f"{repo}@{revision}", reason=reason)


def _checked(snapshot: Path, repo: str) -> Path:
    """Return the snapshot, or a view of it without what other programs fetched into it.

    The cache is shared: another program may have fetched the pickled weights of the same commit.
    """
    try:
        check_folder(snapshot)
    except UnsafeModelError:
        view = cache_folder() / "hub" / repo.replace("/", "--") / snapshot.name
        if not view.is_dir():
            _make_view(snapshot, view)
        check_folder(view)
        return view
    return snapshot


def _make_view(snapshot: Path, view: Path) -> None:
    incoming = view.parent / f".incoming-{uuid.uuid4().hex}"
    incoming.mkdir(parents=True)
    try:
        for file in snapshot.rglob("*"):
            relative = file.relative_to(snapshot).as_posix()
            if file.is_file() and any(fnmatch(relative, pattern) for pattern in HUB_PATTERNS):
                (incoming / relative).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(file.resolve(), incoming / relative)
        check_folder(incoming)
        if not view.exists():
            os.rename(incoming, view)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
