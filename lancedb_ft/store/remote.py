"""A store in an object store: S3, Google Cloud Storage, or any other pyarrow file system.

There is no rename there, so a version is uploaded in place and its ``manifest.json`` is written
last: readers see the version when that object appears, and never before. A number is taken with a
claim: an object ``claim-<uuid>`` is written into the version's folder, and the folder is listed
*afterwards*. Who finds another claim there withdraws and tries a higher number; who finds only its
own goes on. Of two writers at least one finds the other, because each lists after it wrote; so
two never go on under one number.

That holds where a listing shows every object written before it began: S3 (since 2020), Google
Cloud Storage, Azure and MinIO promise it. A file system that does not (an eventually consistent
cache in front of one) can give one number to two writers; keep such a store to one writer.

A killed save leaves a claim, which burns its number, and objects, which the first save a day later
removes.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from lancedb_ft.errors import FingerprintError, InputError, ModelNotFoundError, StoreError
from lancedb_ft.store.fingerprint import fingerprint_folder
from lancedb_ft.store.manifest import MANIFEST
from lancedb_ft.store.places import (
    MODEL,
    RANKING,
    ROWS,
    STALE_AFTER_S,
    TOMBSTONE,
    LocalPlace,
    Place,
    Seal,
)

__all__ = ["RemotePlace", "cache_folder", "open_filesystem", "open_place"]

_CLAIM = "claim-"
#: Object stores that have no folders: making one would leave an empty object behind.
_FLAT = ("s3", "gcs", "abfs")
_COPY_BYTES = 4 << 20


def cache_folder() -> Path:
    """Return the folder for what was fetched: ``$LANCEDB_FT_CACHE``, or in ``~/.cache``."""
    if named := os.environ.get("LANCEDB_FT_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lancedb-ft"


def open_place(uri: str, options: Mapping[str, str] | None, filesystem: Any) -> Place:
    """Return the local folder or the object store that a URI means.

    Raises
    ------
    InputError
        It means none.
    """
    if filesystem is not None:
        return RemotePlace(uri, filesystem, uri.partition("://")[2].rstrip("/"))
    if uri.startswith("file://"):
        uri = open_filesystem(uri)[1]
    if "://" in uri:
        return RemotePlace(uri.rstrip("/"), *open_filesystem(uri, options))
    if not uri.strip():
        raise InputError("The store is an empty text; pass a folder or a URI.")
    return LocalPlace(Path(uri).expanduser().absolute())


# --- file systems --------------------------------------------------------------------------


def open_filesystem(
    uri: str, storage_options: Mapping[str, str] | None = None
) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI, and the path in it.

    Parameters
    ----------
    uri
        ``s3://bucket/path``, ``gs://bucket/path``, or another URI that pyarrow knows.
    storage_options
        The keys LanceDB takes for S3 (``aws_access_key_id``, ``aws_secret_access_key``,
        ``aws_session_token``, ``region``, ``endpoint``, ``allow_http``). Without them, the
        environment and the machine's own credentials are used.

    Raises
    ------
    InputError
        pyarrow does not know the URI, or takes no options for it.
    """
    scheme, _, rest = uri.partition("://")
    options = {key.lower().removeprefix("aws_"): v for key, v in (storage_options or {}).items()}
    if scheme in ("s3", "s3a"):
        return _s3(rest.partition("/")[0], options), rest.rstrip("/")
    if options:
        raise InputError(f"storage_options are known for s3:// only, and the store is {uri!r}.")
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(
            f"{uri!r} cannot be a model store: {error} Use a local folder, s3:// or gs://."
        ) from error
    return filesystem, path.rstrip("/")


def _s3(bucket: str, options: Mapping[str, str]) -> pafs.FileSystem:
    def first(*names: str) -> str | None:
        in_env = (os.environ.get(f"AWS_{name.upper()}") for name in names)
        given = (options.get(name) for name in names)
        return next((value for value in (*given, *in_env) if value), None)

    endpoint = first("endpoint", "endpoint_url")
    region = first("region", "default_region")
    arguments: dict[str, Any] = {
        "access_key": options.get("access_key_id"),
        "secret_key": options.get("secret_access_key"),
        "session_token": options.get("session_token"),
    }
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        arguments["endpoint_override"] = host.rstrip("/")
        plain = str(options.get("allow_http", "")).lower() == "true"
        arguments["scheme"] = scheme or ("http" if plain else "https")
    elif region is None:
        region = _region_of(bucket)
    return pafs.S3FileSystem(region=region, **{k: v for k, v in arguments.items() if v})


def _region_of(bucket: str) -> str | None:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:
        return None  # the request itself will say better what is wrong


# --- the place -----------------------------------------------------------------------------


class RemotePlace:
    """Versions in an object store, read through a local cache."""

    def __init__(self, uri: str, filesystem: pafs.FileSystem, path: str) -> None:
        self.uri = uri
        self._fs = filesystem
        self._path = path

    def _at(self, *parts: str | int) -> str:
        return "/".join([self._path, *map(str, parts)])

    def _list(self, *parts: str | int, deep: bool = False) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self._at(*parts), allow_not_found=True, recursive=deep)
        return list(self._fs.get_file_info(selector))

    def exists(self) -> bool:
        """Say whether there is anything at the URI."""
        try:
            return bool(self._fs.get_file_info(self._path).type != pafs.FileType.NotFound)
        except OSError as error:
            raise StoreError(f"The model store {self.uri!r} cannot be reached: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        found = (info for info in self._list() if info.type == pafs.FileType.Directory)
        return sorted(info.base_name for info in found if not info.base_name.startswith("."))

    def numbers(self, name: str) -> list[int]:
        """Return every number in use, sorted: claimed ones too."""
        return sorted(int(i.base_name) for i in self._list(name) if i.base_name.isdecimal())

    def where(self, name: str, number: int, file: str = "") -> str:
        """Return the URI."""
        return "/".join([self.uri.rstrip("/"), name, str(number), *([file] if file else [])])

    def manifest(self, name: str, number: int) -> bytes | None:
        """Read the manifest."""
        if self.tombstone(name, number) is not None:
            return None
        return self._read(name, number, MANIFEST)

    def tombstone(self, name: str, number: int) -> bytes | None:
        """Read what a deleted version left behind."""
        return self._read(name, number, TOMBSTONE)

    def rows(self, name: str, number: int) -> bytes | None:
        """Read which rows it was trained on."""
        return self._read(name, number, ROWS)

    def note(self, name: str, number: int, file: str) -> bytes | None:
        """Read a note."""
        return self._read(name, number, file)

    def put_note(self, name: str, number: int, file: str, data: bytes) -> None:
        """Write a note: one object, which readers see whole."""
        self._write(data, name, number, file)

    def _read(self, *parts: str | int) -> bytes | None:
        try:
            with self._fs.open_input_stream(self._at(*parts)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def _write(self, data: bytes, *parts: str | int) -> None:
        self._parent(*parts)
        with self._fs.open_output_stream(self._at(*parts)) as stream:
            stream.write(data)

    def _parent(self, *parts: str | int) -> None:
        if self._fs.type_name not in _FLAT:
            self._fs.create_dir(self._at(*parts).rpartition("/")[0], recursive=True)

    # --- reading ---

    def folder(self, name: str, number: int, fingerprint: str) -> Path:
        """Return where the local copy is, or will be."""
        return cache_folder() / "models" / fingerprint

    def fetch(self, name: str, number: int, fingerprint: str) -> Path:
        """Return a verified local copy, downloading it if there is none.

        Raises
        ------
        FingerprintError
            The objects are not those that were saved.
        """
        target = self.folder(name, number, fingerprint)
        if _is_whole(target, fingerprint):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = target.parent / f".incoming-{uuid.uuid4().hex}"
        try:
            self._download(name, number, incoming)
            found = fingerprint_folder(incoming)
            if found != fingerprint:
                raise FingerprintError(f"{name}@{number}", expected=fingerprint, found=found)
            _put(incoming, target)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return target

    def _download(self, name: str, number: int, to: Path) -> None:
        start = self._at(name, number, MODEL) + "/"
        for info in self._list(name, number, MODEL, deep=True):
            if info.type != pafs.FileType.File:
                continue
            relative = PurePosixPath(info.path.removeprefix(start))
            if relative.is_absolute() or ".." in relative.parts:
                raise StoreError(f"{info.path!r} in {self.uri!r} leads out of the model folder.")
            (to / relative).parent.mkdir(parents=True, exist_ok=True)
            with (
                self._fs.open_input_stream(info.path) as source,
                (to / relative).open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, _COPY_BYTES)

    # --- writing ---

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a temporary local folder: what is built there is uploaded."""
        with tempfile.TemporaryDirectory(prefix="lancedb-ft-") as folder:
            yield Path(folder)

    def publish(self, stage: Path, name: str, seal: Seal) -> int:
        """Claim the next number, upload, and write the manifest last."""
        self._sweep(name)
        number = self._claim(name)
        seal(number)
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            relative = file.relative_to(stage).as_posix()
            if relative != MANIFEST:
                self._upload(file, name, number, relative)
        self._write((stage / MANIFEST).read_bytes(), name, number, MANIFEST)
        return number

    def _upload(self, file: Path, name: str, number: int, relative: str) -> None:
        self._parent(name, number, relative)
        with (
            file.open("rb") as source,
            self._fs.open_output_stream(self._at(name, number, relative)) as sink,
        ):
            shutil.copyfileobj(source, sink, _COPY_BYTES)

    def _claim(self, name: str, wait: Callable[[float], None] = time.sleep) -> int:
        mine = f"{_CLAIM}{uuid.uuid4().hex}"
        number = 0
        for attempt in range(100):
            number = max([number, *self.numbers(name)]) + 1
            self._write(b"", name, number, mine)
            if [info.base_name for info in self._list(name, number)] == [mine]:
                return number
            self._fs.delete_file(self._at(name, number, mine))
            wait(random.uniform(0, 0.05 * (attempt + 1)))
        raise StoreError(f"No number of {name!r} could be claimed in {self.uri!r}: try again.")

    def _sweep(self, name: str) -> None:
        before = datetime.now(timezone.utc) - timedelta(seconds=STALE_AFTER_S)
        for number in self.numbers(name):
            found = {info.base_name: info for info in self._list(name, number)}
            claims = [info for file, info in found.items() if file.startswith(_CLAIM)]
            stale = claims and all(claim.mtime and claim.mtime < before for claim in claims)
            if stale and MODEL in found and not found.keys() & {MANIFEST, TOMBSTONE}:
                self._fs.delete_dir(self._at(name, number, MODEL))

    def bury(self, name: str, number: int, tombstone: str) -> None:
        """Write ``deleted.json``, which ends the version, then remove its objects."""
        self._write(tombstone.encode(), name, number, TOMBSTONE)
        found = {info.base_name for info in self._list(name, number)}
        notes = {file for file in found if file.startswith(RANKING)}
        for file in found & {MANIFEST, ROWS} | notes:
            self._fs.delete_file(self._at(name, number, file))
        if MODEL in found:
            self._fs.delete_dir(self._at(name, number, MODEL))


def _is_whole(folder: Path, fingerprint: str) -> bool:
    try:
        return fingerprint_folder(folder) == fingerprint
    except (ModelNotFoundError, StoreError):
        return False


def _put(incoming: Path, target: Path) -> None:
    """Move a verified copy in place, over a broken one if need be."""
    if target.exists():
        aside = target.parent / f".incoming-{uuid.uuid4().hex}"
        os.rename(target, aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(incoming, target)
    except OSError:
        if not target.exists():  # else another process was faster, with the same content
            raise
