"""A real HTTP server on this machine that speaks as much of the Hub as ``huggingface_hub`` asks for.

Point a process at it with ``HF_ENDPOINT=server.url`` and an empty ``HF_HOME``.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class HubServer:
    """Models by repository, each with its revisions: ``{repo: {revision: (commit, folder)}}``."""

    def __init__(self):
        self.models = {}
        self.requests = []
        self.url = ""

    def publish(self, repo, folder, *, revisions=("main",)):
        """Put a folder up under some names; return its commit (SHA-1 over its files)."""
        digest = hashlib.sha1()
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
        commit = digest.hexdigest()
        known = self.models.setdefault(repo, {})
        known[commit] = (commit, Path(folder))
        for revision in revisions:
            known[revision] = (commit, Path(folder))
        return commit

    def environment(self, home):
        """The variables with which a process talks to this server and has a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


_INFO = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/?]+))?/?$")
_TREE = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)/?$")
_FILE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Write nothing to standard error."""

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        hub = self.server.hub
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path))
        for pattern, reply in ((_TREE, self._tree), (_INFO, self._info), (_FILE, self._file)):
            match = pattern.match(path)
            if match is None:
                continue
            known = hub.models.get(match["repo"])
            if known is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
            found = known.get(match["revision"] or "main")
            if found is None:
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
            return reply(match, *found, with_body)
        return self._send(404, b"{}", {}, with_body)

    def _info(self, match, commit, folder, with_body):
        names = [f.relative_to(folder).as_posix() for f in _files(folder)]
        document = {
            "_id": commit[:24],
            "id": match["repo"],
            "modelId": match["repo"],
            "sha": commit,
            "private": False,
            "tags": [],
            "siblings": [{"rfilename": name} for name in names],
        }
        self._send(200, json.dumps(document).encode(), {"X-Repo-Commit": commit}, with_body)

    def _tree(self, match, commit, folder, with_body):
        entries = [
            {
                "type": "file",
                "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                "size": file.stat().st_size,
                "path": file.relative_to(folder).as_posix(),
            }
            for file in _files(folder)
        ]
        self._send(200, json.dumps(entries).encode(), {"X-Repo-Commit": commit}, with_body)

    def _file(self, match, commit, folder, with_body):
        file = folder / match["name"]
        if not file.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self._send(404, b"", headers, with_body)
        body = file.read_bytes()
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        return self._send(200, body, headers, with_body)

    def _send(self, status, body, headers, with_body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _files(folder):
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


@contextmanager
def hub_server():
    """Run a server until the end of the ``with``; yields the `HubServer`."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
