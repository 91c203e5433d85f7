"""`ModelStore`: named, numbered, immutable versions of models."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import (
    FingerprintError,
    InputError,
    ManifestError,
    ModelInUseError,
    ModelNotFoundError,
    StoreNotFoundError,
)
from lancedb_ft.storage import storage_options_for
from lancedb_ft.store.card import PICTURE, card
from lancedb_ft.store.fingerprint import (
    document_fingerprint_of,
    fingerprint_of,
    folder_dims,
    folder_prompts,
)
from lancedb_ft.store.layout import Folder, rewrite_as_5x
from lancedb_ft.store.lineage import walk
from lancedb_ft.store.manifest import (
    FORMAT,
    MANIFEST,
    complete,
    now,
    read_manifest,
    to_json,
    to_plain,
)
from lancedb_ft.store.places import MODEL, RANKING, ROWS, TOMBSTONE, writing
from lancedb_ft.store.query_adapter import QueryAdapter, write_adapter
from lancedb_ft.store.reference import STORE_FOLDER, parse_reference
from lancedb_ft.store.remote import open_place
from lancedb_ft.store.saving import copy_model, save_live
from lancedb_ft.store.trust import inspect_folder
from lancedb_ft.store.usage import tables_using
from lancedb_ft.types import ModelVersion

if TYPE_CHECKING:
    import pyarrow.fs as pafs
    from sentence_transformers import SentenceTransformer

__all__ = ["ModelStore", "parse_reference"]

#: What LanceDB takes for the name of a table.
_TABLE = re.compile(r"^[A-Za-z0-9._-]{1,200}$")


class ModelStore:
    """Models in a folder or an object store, by name and version.

    A version never changes. It becomes visible whole or not at all, however its save ends, and
    processes that save at once get one version each. The number of a deleted version is not given
    out again.

    Parameters
    ----------
    uri
        A local folder (made by the first `save`), ``s3://...``, ``gs://...`` or another URI that
        pyarrow knows. The default place is ``<database>/ft_models``: see `default_store_uri`.
    storage_options
        Credentials and endpoint for ``s3://``, with LanceDB's keys. See
        `lancedb_ft.store.remote.open_filesystem`. Left out: those of `use_storage_options`, then
        the environment.
    filesystem
        A pyarrow file system to use for the path in ``uri``, instead of the one it names.
    """

    def __init__(
        self,
        uri: str | Path,
        *,
        storage_options: Mapping[str, str] | None = None,
        filesystem: pafs.FileSystem | None = None,
    ) -> None:
        if storage_options is None and str(uri).startswith("s3"):
            storage_options = storage_options_for(str(uri))
        self._options = dict(storage_options) if storage_options else None
        self._place = open_place(str(uri), self._options, filesystem)
        #: Where it is; a local folder as an absolute path.
        self.uri = self._place.uri

    def __repr__(self) -> str:
        """Say where it is."""
        return f"ModelStore({self.uri!r})"

    # --- saving ---

    def save(
        self,
        model: str | Path | SentenceTransformer,
        *,
        name: str,
        manifest: Mapping[str, Any] | None = None,
        query_adapter: QueryAdapter | None = None,
        picture: bytes | None = None,
        rows: bytes | None = None,
    ) -> ModelVersion:
        """Save a model as the next version of ``name``.

        Parameters
        ----------
        model
            A folder in sentence-transformers layout, or a live model. Only the files that make
            the vectors are kept: no model card, no checkpoints of the trainer, since those hold
            samples of the training text.
        name
            Letters, digits, ``.``, ``_``, ``-``.
        manifest
            What is known of it: ``base`` (``{"ref", "fingerprint"}``), ``parent``
            (``support@2``), ``table`` (database, name, version), ``data`` (fingerprint of the
            training data), ``split``, ``training`` (every argument), ``seed``, ``metrics``. The
            store adds name, version, fingerprint, dims, prompts, package versions and the time.
        query_adapter
            Put beside the model, in place of one that it has; see `train_query_adapter`.
        picture
            The course of the training as PNG, for the model card.
        rows
            Which rows of the data it was trained on: kept beside the manifest and never in the
            model folder, so that publishing that folder tells nobody. See `rows`.

        Raises
        ------
        InputError
            The name cannot be used, or the manifest holds what JSON has no place for.
        StoreError
            The system refuses to write: no room, no permission.
        UnsafeModelError
            The folder holds something else than data.
        """
        parsed, version = parse_reference(name)
        if version is not None:
            raise InputError(f"name is {name!r}; the store counts the versions itself: {parsed!r}.")
        given = to_plain(manifest or {})
        with writing(f"A version of {name!r}", self.uri), self._place.staging() as stage:
            target = stage / MODEL
            if isinstance(model, (str, Path)):
                copy_model(model, target)
            else:
                save_live(model, target)
            if query_adapter is not None:
                write_adapter(query_adapter, target)
            rewrite_as_5x(inspect_folder(target))
            folder = inspect_folder(target)
            if picture is not None:
                (target / PICTURE).write_bytes(picture)
            if rows is not None:
                (stage / ROWS).write_bytes(rows)
            document = complete(
                {
                    **given,
                    "kind": folder.kind,
                    "document_fingerprint": document_fingerprint_of(folder),
                },
                name=name,
                fingerprint=fingerprint_of(folder),
                dims=folder_dims(folder),
                prompts=folder_prompts(folder),
            )

            def seal(number: int) -> None:
                document["version"] = number
                (stage / MANIFEST).write_text(to_json(document), encoding="utf-8")
                told = card(document, picture=picture is not None)
                (target / "README.md").write_text(told, encoding="utf-8")

            number = self._place.publish(stage, name, seal)
        return self._version(name, number, document)

    # --- reading ---

    def _require(self, reference: str = "") -> None:
        if not self._place.exists():
            raise StoreNotFoundError(self.uri, reference=reference)

    def _manifest(self, name: str, number: int) -> dict[str, Any] | None:
        raw = self._place.manifest(name, number)
        if raw is None:
            return None
        where = self._place.where(name, number, MANIFEST)
        document = read_manifest(raw, where=where)
        if (document["name"], document["version"]) != (name, number):
            found = f"{document['name']}@{document['version']}"
            raise ManifestError(where, reason=f"it is that of {found}: the folder was moved.")
        return document

    def _version(self, name: str, number: int, manifest: Mapping[str, Any]) -> ModelVersion:
        fingerprint = str(manifest["fingerprint"])
        return ModelVersion(
            name=name,
            version=number,
            store=self.uri,
            path=str(self._place.folder(name, number, fingerprint)),
            fingerprint=fingerprint,
            dims=int(manifest["dims"]),
            manifest=manifest,
        )

    def _visible(self, name: str) -> builtins.list[int]:
        numbers = self._place.numbers(name)
        return [n for n in numbers if self._place.manifest(name, n) is not None]

    def _not_found(self, reference: str, name: str) -> ModelNotFoundError:
        same = [f"{name}@{number}" for number in self._visible(name)]
        available = same or [f"{n}@{v}" for n in self._place.names() for v in self._visible(n)]
        return ModelNotFoundError(reference, store=self.uri, available=available)

    def _find(self, reference: str) -> tuple[str, int]:
        """Return the name and number that a reference means, without reading the model."""
        name, number = parse_reference(reference)
        self._require(reference)
        numbers = self._place.numbers(name)
        wanted = [number] if number is not None else builtins.list(reversed(numbers))
        for each in wanted:
            if each in numbers and (number or self._place.manifest(name, each) is not None):
                return name, each
        raise self._not_found(reference, name)

    def list(self, name: str | None = None) -> builtins.list[ModelVersion]:
        """Return all versions, or those of one name, in order.

        Only manifests are read. In an object store, ``path`` of a version is where `load` will
        put its local copy.

        Raises
        ------
        StoreNotFoundError
            There is no such store.
        ManifestError
            A manifest is torn, or was written by a newer lancedb-ft.
        """
        self._require()
        names = self._place.names() if name is None else [parse_reference(name)[0]]
        found = []
        for each in names:
            for number in self._place.numbers(each):
                manifest = self._manifest(each, number)
                if manifest is not None:
                    found.append(self._version(each, number, manifest))
        return found

    def latest(self, name: str) -> ModelVersion:
        """Return the highest version of a name.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            There is no such store, or no version of that name.
        """
        return self.load(parse_reference(name)[0])

    def load(self, reference: str) -> ModelVersion:
        """Return a version whose files are here, checked, and those that were saved.

        Parameters
        ----------
        reference
            ``support@3``, or ``support`` for the latest.

        Raises
        ------
        StoreNotFoundError
            There is no such store.
        ModelNotFoundError
            There is no such version; the error lists those there are.
        ManifestError, UnsafeModelError, FingerprintError
            What is there is not what was saved.
        """
        name, number = self._find(reference)
        manifest = self._manifest(name, number)
        if manifest is None:
            raise self._not_found(reference, name)
        recorded = str(manifest["fingerprint"])
        path = self._place.fetch(name, number, recorded)
        folder = inspect_folder(path)
        found = fingerprint_of(folder)
        if found != recorded:
            raise FingerprintError(f"{name}@{number}", expected=recorded, found=found)
        _check_documents(f"{name}@{number}", manifest, folder)
        return self._version(name, number, manifest)

    def rows(self, reference: str) -> bytes | None:
        """Return what `save` was given as ``rows``; None if it was given nothing.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            There is no such store, or no such version.
        """
        name, number = self._find(reference)
        return self._place.rows(name, number)

    # --- what is learned about a version later ---

    def ranking(self, reference: str, table: str) -> str | None:
        """Return what `keep_ranking` was given for a table, or None.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            There is no such store, or no such version.
        """
        name, number = self._find(reference)
        raw = self._place.note(name, number, _ranking_file(table))
        return None if raw is None else raw.decode("utf-8", "replace")

    def keep_ranking(self, reference: str, table: str, text: str) -> None:
        """Keep with a version how a table is best searched with it, instead of what was kept.

        The version itself does not change: neither its weights nor its manifest.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            There is no such store, or no such version.
        InputError
            The name of the table is no file name.
        """
        name, number = self._find(reference)
        with writing(f"The ranking of table {table!r}", self.uri):
            self._place.put_note(name, number, _ranking_file(table), text.encode())

    # --- deleting ---

    def delete(self, reference: str, *, force: bool = False, databases: Sequence[str] = ()) -> None:
        """Delete one version. Its number is not given out again, and its manifest is kept.

        Parameters
        ----------
        reference
            ``name@version``; a name alone would delete something else tomorrow.
        force
            Also where a table uses it; that is not looked for then.
        databases
            Databases whose tables may use it. That of a store in its default place is known.

        Raises
        ------
        ModelInUseError
            A table has vectors of this version, shown or parked.
        """
        name, number = parse_reference(reference)
        if number is None:
            raise InputError(f"Say which version to delete, as in {name}@3.")
        self._find(reference)
        if self._place.manifest(name, number) is None:
            raise self._not_found(reference, name)
        try:
            manifest = self._manifest(name, number)
        except ManifestError:
            if not force:
                raise
            manifest = None  # torn: there is nothing left to remember
        if not force and (users := self._users(name, number, manifest or {}, databases)):
            raise ModelInUseError(reference, tables=users)
        left = {"format": FORMAT, "name": name, "version": number, "deleted_at": now()}
        with writing(f"The deletion of {name}@{number}", self.uri):
            self._place.bury(name, number, to_json({**left, "manifest": manifest}))

    def _users(
        self, name: str, number: int, manifest: Mapping[str, Any], databases: Sequence[str]
    ) -> builtins.list[str]:
        fingerprint = str(manifest.get("fingerprint", ""))
        path = str(self._place.folder(name, number, fingerprint))
        users: builtins.list[str] = []
        for database in self._databases(databases):
            users += tables_using(
                database,
                name=name,
                number=number,
                fingerprint=fingerprint or None,
                path=path,
                storage_options=self._options if "://" in database else None,
            )
        return users

    def _databases(self, given: Sequence[str]) -> builtins.list[str]:
        own, _, last = self.uri.rstrip("/").rpartition("/")
        found = [own] if last == STORE_FOLDER and own else []
        known = {str(Path(uri).absolute()) for uri in found if "://" not in uri}
        for uri in given:
            place = uri.rstrip("/")
            if place not in found and str(Path(place).expanduser().absolute()) not in known:
                found.append(place)
        return found

    # --- lineage ---

    def lineage(self, reference: str) -> builtins.list[dict[str, Any]]:
        """Walk from a version back to the model that everything began with.

        Returns
        -------
        list of dict
            One step a model, the version itself first, the base model last. Each has ``ref`` and
            ``fingerprint``, and what its manifest has of ``dims``, ``parent``, ``base``,
            ``table``, ``data``, ``split``, ``training``, ``seed``, ``metrics``, ``packages`` and
            ``created_at``. A deleted step says ``deleted_at``; what it was is still told.

        Raises
        ------
        StoreNotFoundError, ModelNotFoundError
            There is no such store, or no such version.
        """
        name, number = self._find(reference)
        steps = builtins.list(walk(f"{name}@{number}", self._remembered))
        if steps[0].get("missing"):
            raise self._not_found(reference, name)
        return steps

    def _remembered(self, reference: str) -> tuple[Mapping[str, Any] | None, str | None]:
        """Return the manifest of a version, and when it was deleted, if it was."""
        name, number = parse_reference(reference)
        if number is None:
            return None, None
        raw = self._place.tombstone(name, number)
        if raw is None:
            return self._manifest(name, number), None
        try:
            left = json.loads(raw)
            return left.get("manifest"), str(left.get("deleted_at"))
        except (ValueError, AttributeError) as error:
            where = self._place.where(name, number, TOMBSTONE)
            raise ManifestError(where, reason=f"it is torn ({error}).") from error


def _ranking_file(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise InputError(f"{table!r} is not the name of a table: letters, digits, '.', '_', '-'.")
    return f"{RANKING}{table}.json"


def _check_documents(reference: str, manifest: Mapping[str, Any], folder: Folder) -> None:
    """Refuse a manifest that claims other documents: a table would be switched without encoding."""
    found = document_fingerprint_of(folder)
    recorded = str(manifest.get("document_fingerprint", manifest["fingerprint"]))
    if found != recorded:
        raise FingerprintError(reference, expected=recorded, found=found)
