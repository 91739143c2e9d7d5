"""Servers that send wrong headers, send too slowly, or never stop."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backbones import download as downloads
from backbones.download import download
from backbones.errors import UserError
from data.tar import BadShard, read_samples

pytestmark = pytest.mark.usefixtures("online")
HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def server(start: bytes, then: bytes = b"", pause: float = 0.0) -> Iterator[str]:
    """On loopback: answers each request with `start`, and with `then` again and again, `pause` seconds apart."""

    def answer(client: socket.socket) -> None:
        try:
            client.recv(4096)
            client.sendall(start)
            for _ in itertools.count() if then else ():
                client.sendall(then)
                time.sleep(pause)
        except OSError:  # the client has closed the connection
            pass
        finally:
            client.close()

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.bin"
        listening.shutdown(socket.SHUT_RDWR)


def refused(url: str, path: Path, words: str, **settings: Any) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=words) as error:
        download(url, path, pause=0, **settings)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 120  # it does not wait for ever
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("length", [b"soon", b"-5", b"1e9", b"9" * 4000, "²".encode("latin1"), b"5, 5"])
def test_an_announced_length_that_is_none(length: bytes, tmp_path: Path) -> None:
    with server(HEAD + b"Content-Length: " + length + b"\r\n\r\nhello") as url:
        refused(url, tmp_path / "a.bin", "its server announces a length of")


@pytest.mark.parametrize("start", [HEAD + b"Content-Length: 2000001\r\n\r\n", HEAD + b"\r\n"], ids=["said", "endless"])
def test_a_file_without_end(start: bytes, tmp_path: Path) -> None:
    with server(start, bytes(1 << 16)) as url:
        refused(url, tmp_path / "a.bin", "is larger than the 2000000 bytes", max_bytes=2_000_000)
        refused(url, tmp_path / "a.bin", "is larger than the 2000000 bytes", max_bytes=2_000_000, keep=True, tries=8)


def test_a_redirection_without_end_is_not_read(tmp_path: Path) -> None:
    with server(HEAD + b"Content-Length: 5\r\n\r\nhello") as url:
        moved = b"HTTP/1.1 302 Found\r\nLocation: " + url.encode() + b"\r\n\r\n"
        with server(moved, bytes(1 << 16)) as first:
            download(first, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"hello"


def test_a_redirection_to_ftp_is_not_followed(tmp_path: Path) -> None:
    """urllib would; such a stream may be as slow as it likes."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        address = f"ftp://127.0.0.1:{elsewhere.getsockname()[1]}/a.bin"
        with server(f"HTTP/1.1 302 Found\r\nLocation: {address}\r\n\r\n".encode()) as url:
            refused(url, tmp_path / "a.bin", "ftp:// is not read, only http")
        with pytest.raises(BlockingIOError):  # nobody has connected
            elsewhere.accept()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "data:,hello", "ftp://127.0.0.1:9/a.bin"])
def test_other_addresses_are_not_read(address: str, tmp_path: Path) -> None:
    refused(address, tmp_path / "a.bin", "is not read, only http")


def test_offline_no_server_is_contacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with server(HEAD + b"Content-Length: 5\r\n\r\nhello") as url:
        refused(url, tmp_path / "a.bin", "is not downloaded, as HF_HUB_OFFLINE is set")


SLOW = {
    "status": b"HTTP/1.1 200 ",
    "headers": HEAD + b"X-Header: ",
    "body": HEAD + b"Content-Length: 100000\r\n\r\n",
    "length of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
def test_a_server_that_hardly_sends(start: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte at a time, which triggers no socket timeout."""
    monkeypatch.setattr(downloads, "PATIENCE", 0.5)
    with server(start, b"0", pause=0.05) as url:
        refused(url, tmp_path / "a.bin", r"cannot be downloaded \(\d+ bytes in \d+ s are too few", tries=3)
        with pytest.raises(BadShard, match="bytes in"):
            list(read_samples(url.replace("a.bin", "a.tar")))


def test_a_slow_reader_is_not_the_servers_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.1)
    with server(HEAD + b"Content-Length: 20000\r\n\r\n" + bytes(20000)) as url:
        response = downloads.open_address(url, timeout=5)
        received = 0
        while chunk := response.read1(4096):
            received += len(chunk)
            time.sleep(0.05)
    assert received == 20000


def test_what_a_killed_process_left_is_not_resumed(tmp_path: Path) -> None:
    """In a container, each process has the same number."""
    (tmp_path / f"a.bin.{os.getpid()}.part").write_bytes(b"of another file")
    with server(HEAD + b"Content-Length: 5\r\n\r\nhello") as url:
        download(url, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"hello"
    assert len(list(tmp_path.iterdir())) == 2
