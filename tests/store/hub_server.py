"""A Hugging Face Hub of its own: the part of its HTTP interface that a download uses."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Serves ``{repo: {path: bytes}}`` over HTTP, each repository with one commit.

    ``revisions`` are the names that mean that commit. ``requests`` records what was asked for.
    """

    def __init__(self, repos, revisions=("main", "v1")):
        self.repos = repos
        self.commits = {repo: hashlib.sha1(repo.encode()).hexdigest() for repo in repos}
        self.revisions = revisions
        self.requests = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api(request, "/".join(parts[2:4]), parts[4:])
        else:
            self._file(request, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _known(self, request, repo, revision):
        if repo not in self.repos:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (*self.revisions, self.commits[repo]):
            self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def _api(self, request, repo, rest):
        revision = rest[1] if len(rest) > 1 else "main"
        if not self._known(request, repo, revision):
            return
        files = self.repos[repo]
        if rest[:1] == ["tree"]:
            answer = [
                {"type": "file", "path": path, "size": len(data), "oid": _sha(data)}
                for path, data in files.items()
            ]
        else:
            siblings = [{"rfilename": path} for path in files]
            answer = {"id": repo, "modelId": repo, "sha": self.commits[repo], "siblings": siblings}
            answer |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
        body = json.dumps(answer).encode()
        self._send(request, 200, body, {"Content-Type": "application/json"})

    def _file(self, request, repo, revision, path):
        if not self._known(request, repo, revision):
            return
        data = self.repos[repo].get(path)
        if data is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": self.commits[repo]}
        self._send(request, 200, data, headers)

    def _send(self, request, status, body, headers):
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


def _sha(data):
    return hashlib.sha1(data).hexdigest()
