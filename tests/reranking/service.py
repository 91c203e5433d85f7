"""A real HTTP server that speaks Cohere's v2 rerank and OpenAI's chat completions, and can fail.

Each request takes the next of the planned behaviours; without one it is answered rightly. The
relevance of a text is the share of the query's words that it has.
"""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-verysecret-0123456789abcdef"


class Service:
    """The server, what it was asked, and what it will do next."""

    def __init__(self):
        self.requests = []
        self.plan = []
        self.end = threading.Event()
        self.lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are written one after the other: with it, 40 ms for a delayed ACK.
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with service.lock:
                    asked = {
                        "path": self.path,
                        "headers": {name.lower(): v for name, v in self.headers.items()},
                        "at": time.monotonic(),
                        **json.loads(body),
                    }
                    service.requests.append(asked)
                    act = service.plan.pop(0) if service.plan else right
                try:
                    act(self, asked)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def start_over(self):
        self.end.set()
        self.end = threading.Event()
        self.requests, self.plan = [], []

    def close(self):
        self.end.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


# --- what it can do ------------------------------------------------------------------------


def right(handler, asked):
    send(handler, 200, json.dumps(answer_of(asked)))


def status(code, body=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"message": f"no: {KEY}"} if body is None else body
    return lambda handler, asked: send(handler, code, json.dumps(body), **named)


def saying(text, content_type="application/json"):
    return lambda handler, asked: send(handler, 200, text, **{"content-type": content_type})


def dripping(where):
    """Send one byte every 20 ms: the timeout between two bytes never ends."""

    def act(handler, asked):
        body = json.dumps(answer_of(asked)) + " " * 10_000
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        if where == "body":
            handler.wfile.write(f"{head}\r\n\r\n".encode())
            drip = body
        else:
            drip = "HTTP/1.1 200 OK\r\nx-long: " + "a" * 10_000
        for byte in drip.encode():
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.02)

    return act


def hanging(service):
    end = service.end
    return lambda handler, asked: end.wait(20)


def cutting(handler, asked):
    """Promise more than is sent, and hang up."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"results": [{"index"')
    handler.close_connection = True


def dropping(handler, asked):
    """Hang up without a word."""
    handler.close_connection = True


def send(handler, code, text, **headers):
    body = text.encode()
    handler.send_response(code)
    headers = {"content-type": "application/json", **headers}
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


# --- right answers -------------------------------------------------------------------------


def relevance(query, text):
    words = set(query.lower().split())
    return len(words & set(text.lower().split())) / len(words)


def answer_of(asked):
    return cohere_answer(asked) if asked["path"] == "/v2/rerank" else chat_answer(asked)


def cohere_answer(asked):
    scores = [relevance(asked["query"], text) for text in asked["documents"]]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])
    return {
        "id": "1",
        "results": [{"index": place, "relevance_score": scores[place]} for place in best],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": -(-len(scores) // 100)},
        },
    }


def chat_answer(asked):
    said = asked["messages"][-1]["content"]
    query = json.loads(re.match(r"Query: (.*)", said)[1])
    passages = [json.loads(told) for told in re.findall(r"^\[\d+\] (.*)$", said, re.MULTILINE)]
    scores = [relevance(query, text) for text in passages]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])
    return completion(json.dumps({"ranking": [place + 1 for place in best]}))


def completion(text):
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
    }
