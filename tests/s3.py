"""An S3 server on this machine, moto's, and a proxy before it that fails as networks do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "never-to-be-told", "AWS_REGION": "us-east-1"}

Fault = Callable[["_Handler", int], bool]
"""What is done with a request, by its number, in place of passing it on; False where it is passed on."""


@dataclass
class Faults:
    """The faults to come, the requests that there have been, and the bytes that they got."""

    fault: Fault = lambda _handler, _number: False
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    faults: Faults

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def forward(self, cut: float | None = None) -> None:
        """Pass the request on, and the answer back: all of it, or a part before the connection breaks."""
        body = self._body()
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        with self.faults.lock:
            self.faults.sent += len(data)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if cut is None:
            self.wfile.write(data if self.command != "HEAD" else b"")
        else:
            self.wfile.write(data[: int(len(data) * cut)])
            self.wfile.flush()
            self.close()
        connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def refuse(self, status: int) -> None:
        """Answer with an error."""
        self._body()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def close(self) -> None:
        """Break the connection."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def handle_any(self) -> None:
        with self.faults.lock:
            number = len(self.faults.requests)
            self.faults.requests.append(f"{self.command} {self.path}")
        if not self.faults.fault(self, number):
            self.forward()


for verb in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Handler, f"do_{verb}", _Handler.handle_any)


def error_500(handler: Any, _: int) -> bool:  # noqa: ANN401  # a handler, whose class is below its type
    handler.refuse(500)
    return True


def slow_down(handler: Any, _: int) -> bool:  # noqa: ANN401
    handler.refuse(503)
    return True


def cut_off(handler: Any, _: int) -> bool:  # noqa: ANN401
    handler.close()
    return True


def cut_midway(handler: Any, _: int) -> bool:  # noqa: ANN401
    handler.forward(cut=0.5)
    return True


def slow(_handler: Any, _: int) -> bool:  # noqa: ANN401
    time.sleep(1.0)
    return False


FAULTS: dict[str, Fault] = {"500": error_500, "503": slow_down, "cut off": cut_off, "cut midway": cut_midway, "slow": slow}


def every(fault: Fault, *, of: int, first: int = 0) -> Fault:
    """A fault at one request in ``of``."""
    return lambda handler, number: number % of == first and fault(handler, number)


@dataclass(frozen=True)
class Server:
    """Where it is, what it keeps, and the faults of its network."""

    endpoint: str
    client: Any
    faults: Faults

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="shop", Key=key, Body=content)

    def get(self, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket="shop", Key=key)["Body"].read()
        return found

    def keys(self) -> list[str]:
        return sorted(one["Key"] for one in self.client.list_objects_v2(Bucket="shop").get("Contents", []))

    def uploads(self) -> list[Any]:
        """Uploads that were begun and neither finished nor given up."""
        found: list[Any] = self.client.list_multipart_uploads(Bucket="shop").get("Uploads", [])
        return found

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}


@contextmanager
def server() -> Iterator[Server]:
    """A server with the bucket ``shop``, behind a network with faults."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    faults = Faults()
    handler = type("Handler", (_Handler,), {"upstream": (host, port), "faults": faults})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="anyone",
        aws_secret_access_key="anything",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="shop")
    try:
        yield Server(f"http://127.0.0.1:{proxy.server_address[1]}", client, faults)
    finally:
        proxy.shutdown()
        proxy.server_close()
        client.close()
        moto.stop()
