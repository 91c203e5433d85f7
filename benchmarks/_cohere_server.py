"""A local HTTP server that speaks version 2 of Cohere's rerank interface, with scores of ours."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def cohere_server(score: Callable[[str, Sequence[str]], Sequence[float]]) -> Iterator[str]:
    """Serve ``POST /v2/rerank`` on loopback; yield the address.

    Parameters
    ----------
    score
        Called with a query and texts; returns one number from 0 to 1 each.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are written one after the other: with it, 40 ms for a delayed ACK.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            scores = score(asked["query"], asked["documents"])
            best = sorted(range(len(scores)), key=lambda place: -scores[place])
            body = json.dumps(
                {
                    "id": "local",
                    "results": [{"index": n, "relevance_score": float(scores[n])} for n in best],
                    "meta": {"billed_units": {"search_units": -(-len(scores) // 100)}},
                }
            ).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
