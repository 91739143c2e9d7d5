"""Serves one page, with the headers that allow it to use threads."""

import http.server
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from backbones.console import Console
from backbones.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")  # all addresses of this machine, loopback included
HEADERS = {  # without cross-origin isolation there is no shared memory, and so only one thread
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET of / with the page."""

    def __init__(self, page: Path, *args: Any) -> None:
        self.page = page
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/":
            self.send_error(404)
            return
        content = self.page.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, page: Path, host: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], partial(Handler, page))  # type: ignore[arg-type]  # an IPv6 address has four parts, of which these are two

    def handle_error(self, *request: Any) -> None:
        """Prints a traceback, unless the browser closed the connection, such as by reloading the page early."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)


def server(page: Path, host: str, port: int) -> Server:
    """A listening server.

    Raises:
        UserError: the host is unknown or the port is taken.
    """
    try:
        return Server(page, host, port)
    except OSError as error:
        raise UserError(f"host={host} port={port} cannot be served ({error.strerror or error}); try port=0") from error


def announcement(host: str, port: int) -> list[str]:
    """The addresses that work, and what browsers allow there."""
    plain = (
        "over plain http, where browsers allow one thread and no live camera: photos work; for the rest put the page "
        "on any https host"
    )
    if host not in (*LOOPBACK, *ANY):
        name = f"[{host}]" if ":" in host else host
        return [f"serving http://{name}:{port}/ {plain}; Ctrl-C ends it"]
    lines = [
        f"serving http://localhost:{port}/ with threads and camera; Ctrl-C ends it",
        f"an Android phone on USB opens the same address after: adb reverse tcp:{port} tcp:{port}",
    ]
    return [*lines, f"other devices reach this machine's address {plain}"] if host in ANY else lines


def serve(page: Path, host: str, port: int) -> None:
    """Serves until interrupted, and prints the addresses that work."""
    console = Console()
    with server(page, host, port) as running:
        for line in announcement(host, running.server_address[1]):
            console.print(line, soft_wrap=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            console.print("stopped")
