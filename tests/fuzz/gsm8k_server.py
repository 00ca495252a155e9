"""A small OpenAI-compatible server on loopback that answers from a table, with errors, delays and failures on request."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Failure = Callable[[str, int], int]
"""(question, tries so far) -> HTTP status, 0 to answer, -1 to break the connection."""


class TableServer(ThreadingHTTPServer):
    """Answers by question; counts requests by question and keeps the bodies."""

    daemon_threads = True
    request_queue_size = 128
    """All questions at once: with the usual 5, the kernel turns connections away."""

    def __init__(self, answers: Mapping[str, str], failure: Failure) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.failure = failure
        self.tries: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.together = self.most_together = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that no longer waits is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: TableServer

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "table"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        question = prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:")
        server = self.server
        with server.lock:
            server.together += 1
            server.most_together = max(server.most_together, server.together)
            tried = server.tries[question]
            server.tries[question] += 1
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
        status = server.failure(question, tried)
        with server.lock:
            server.together -= 1
        if status < 0:
            self.connection.close()
            return
        if status:
            self._send(status, {"error": {"message": "the table says no"}})
            return
        text = server.answers[question]
        choice = {"message": {"content": text}} if chat else {"text": text}
        self._send(200, {"choices": [{**choice, "finish_reason": "stop"}]})

    def _send(self, status: int, plain: object) -> None:
        content = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def table_server(answers: Mapping[str, str], failure: Failure = lambda question, tried: 0) -> Iterator[TableServer]:
    """The server, running."""
    server = TableServer(answers, failure)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
