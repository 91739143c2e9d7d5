"""Downloads that show progress, resume after interruption, and never leave a partial file under the final name.

Servers are not trusted: transfers need a minimum speed and have a maximum size.
"""

import hashlib
import http.client
import io
import os
import secrets
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from backbones.console import Console
from backbones.errors import UserError
from backbones.files import publish

COLUMNS = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())

TIMEOUT, CONNECT_TIMEOUT = 20.0, 3.0  # seconds: of each read, and of the connection in `reachable`
MAX_BYTES = 200_000_000_000  # of a download; the largest of ImageNet is 148 GB
PATIENCE, MIN_SPEED = 30.0, 1000  # a transfer ends if its speed over so many seconds is below so many bytes/s


class SteadyReader(io.RawIOBase):
    """Reads a socket that sends at least MIN_SPEED bytes a second; a timeout alone would accept single bytes.

    Raises:
        TimeoutError: it was slower for PATIENCE seconds. Only the time that the reader waits counts.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.waited, self.count = raw, 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        start = time.monotonic()
        count = self.raw.readinto(buffer)
        self.waited += time.monotonic() - start
        self.count += count or 0
        if self.waited > PATIENCE:
            if self.count < MIN_SPEED * self.waited:
                raise TimeoutError(f"{self.count} bytes in {self.waited:.0f} s are too few")
            self.waited, self.count = 0.0, 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Reads everything, including headers and the lengths of chunks, through a SteadyReader."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.fp = io.BufferedReader(SteadyReader(self.fp.detach()))


class _HttpConnection(http.client.HTTPConnection):
    response_class = _Response


class _HttpsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpConnection, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpsConnection, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()  # otherwise the body of the redirection is read into memory
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Refused(urllib.request.FTPHandler, urllib.request.FileHandler, urllib.request.DataHandler):
    """In place of urllib's handlers of other schemes, which read without a SteadyReader; a server can redirect to ftp.

    Raises:
        URLError: always.
    """

    def ftp_open(self, req: urllib.request.Request) -> Any:
        raise urllib.error.URLError(f"{req.type}:// is not read, only http:// and https://")

    file_open = data_open = ftp_open


def open_address(request: str | urllib.request.Request, timeout: float) -> Any:
    """As urllib.request.urlopen for http and https, but the stream raises TimeoutError if it is too slow."""
    opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler, _Redirects, _Refused)
    return opener.open(request, timeout=timeout)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, as for timm: then nothing is downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def reachable(url: str) -> bool:
    """Whether the server of an address, or the proxy to it, accepts a connection within CONNECT_TIMEOUT. A thread looks
    up its name, because that has no timeout. False if HF_HUB_OFFLINE is set.
    """
    if offline():
        return False
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        with (
            suppress(OSError),
            socket.create_connection(address, CONNECT_TIMEOUT),
        ):
            answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    return answered.is_set()


def cache_folder() -> Path:
    """Where downloaded weights are kept: mobilenets/ under XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilenets"


def download(
    url: str,
    path: Path,
    *,
    digest: str | None = None,
    keep: bool = False,
    tries: int = 1,
    pause: float = 1.0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Downloads url to path; the file appears under its name only when it is complete and has the `digest` (such as
    md5:0123...), if that is known.

    An interrupted transfer is resumed, until `tries` in a row, `pause` seconds apart, bring nothing new. With `keep`
    the next call resumes it too. A file of more than `max_bytes`, announced or not, is refused.

    Raises:
        UserError: the server does not answer, the transfer ends early, or the file differs from the published one; or
            HF_HUB_OFFLINE is set, with which no server is contacted.
    """
    if offline():
        raise UserError(
            f"{url} is not downloaded, as HF_HUB_OFFLINE is set; put the file at {path} by hand, or unset it"
        )
    partial = path.with_name(f"{path.name}.part" if keep else f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_symlink():  # writing would follow it, in a folder that is someone else's
            partial.unlink()
        _fetch_with_retries(url, partial, tries, pause, max_bytes)
        if digest and not matches(partial, digest):
            partial.unlink()
            raise UserError(f"{url} is not the file that was published: its {digest.split(':')[0]} differs; try again")
        publish(partial, path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be downloaded ({reason}); put the file at {path} by hand") from error
    finally:
        if not keep:
            with suppress(OSError):
                partial.unlink()


def _fetch_with_retries(url: str, partial: Path, tries: int, pause: float, max_bytes: int) -> None:
    """Resumes a transfer until it is complete, or `tries` in a row bring nothing new; then raises the last error."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            _fetch(url, partial, max_bytes)
            return
        except (OSError, HTTPException) as error:
            # otherwise a server that is too slow would be resumed again and again, for a few bytes each time
            least = MIN_SPEED * PATIENCE if isinstance(error, TimeoutError) else 1
            failures = 1 if _size(partial) - before >= least else failures + 1
            final = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
            if final or failures >= (tries if _size(partial) else min(tries, 2)):  # no answer at all: twice is enough
                raise
            time.sleep(pause)


def _fetch(url: str, partial: Path, max_bytes: int) -> None:
    """Appends the missing part of a file; OSError if that is interrupted, UserError if the file is too large."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = open_address(request, TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # it was complete already
            return
        partial.unlink()  # longer than the server's file: a part of another one
        raise OSError("the part on disk is of another file") from error
    with response, Progress(*COLUMNS, console=Console(), transient=True) as progress:
        have = have if response.status == 206 else 0  # otherwise the server starts from the beginning
        total = _total(url, response.headers.get("Content-Length"), have)
        too_large = UserError(f"{url} is larger than the {max_bytes} bytes that such a file may have")
        if total is not None and total > max_bytes:
            raise too_large
        bar = progress.add_task(partial.name.removesuffix(".part"), total=total, completed=have)
        with partial.open("ab" if have else "wb") as file:
            while chunk := response.read1(1 << 16):
                have += len(chunk)
                if have > max_bytes:
                    partial.unlink()
                    raise too_large
                file.write(chunk)
                progress.advance(bar, len(chunk))
    if total is not None and _size(partial) != total:
        raise OSError(f"it ended after {_size(partial)} of {total} bytes")


def _total(url: str, length: str | None, have: int) -> int | None:
    """The file's length, from the announced length of the missing part; None if none is announced."""
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise UserError(f"{url} cannot be downloaded: its server announces a length of {length[:20]!r} bytes")
    return have + int(length)


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest such as md5:0123..."""
    kind, _, wanted = digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == wanted


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
