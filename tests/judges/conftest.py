"""A small chat endpoint on this machine that answers, refuses and misbehaves as told."""

import http.server
import json
import threading
from typing import NamedTuple

import pytest


class Reply(NamedTuple):
    """What the server sends back.

    Attributes:
        hang: Seconds to say nothing before.
        drip: Seconds between one byte of the body and the next.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] | None = None
    hang: float = 0.0
    drip: float = 0.0


def completion(text):
    """The reply that holds a text, as OpenAI's endpoint sends it."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}}]
    return Reply(json.dumps({"choices": choices}).encode())


class Server:
    """Records requests, and asks `reply(number, request)` what to send back."""

    def __init__(self):
        self.requests, self.headers = [], []
        self.reply = lambda number, request: completion("VERDICT: TIE")
        self.at_once = self.most_at_once = 0
        self.lock, self.ended = threading.Lock(), threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    server.headers.append((self.path, dict(self.headers)))
                    number = len(server.requests)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self.send(server.reply(number, body))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # who asked has given up
                finally:
                    with server.lock:
                        server.at_once -= 1

            def send(self, reply):
                server.ended.wait(reply.hang)
                self.send_response(reply.status)
                for name, value in (reply.headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                size = 1 if reply.drip else max(len(reply.body), 1)
                for start in range(0, len(reply.body), size):
                    self.wfile.write(reply.body[start : start + size])
                    self.wfile.flush()
                    if server.ended.wait(reply.drip):
                        break

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.ended.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    """A running server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()
