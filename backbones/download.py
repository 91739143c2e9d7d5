"""Downloads that show progress, go on where they broke off, and never leave a half file under the final name.

A server is trusted with nothing: what it sends must come at a minimum speed, and end.
"""

import hashlib
import http.client
import io
import os
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

MAX_BYTES = 200_000_000_000  # of a download; the largest of ImageNet has 148 GB
PATIENCE, MIN_SPEED = 30.0, 1000  # seconds over which fewer bytes a second end a transfer


class SteadyReader(io.RawIOBase):
    """What a socket sends, as long as it is at least MIN_SPEED bytes a second; a timeout alone allows a byte at a time.

    Raises:
        TimeoutError: it was slower for PATIENCE seconds. The time that the reader does not wait is not counted.
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
    """Reads all, headers and the lengths of chunks too, through a SteadyReader."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.fp = io.BufferedReader(SteadyReader(self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SafeConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _SafeHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SafeConnection, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()  # or all that comes with the redirection is read into memory
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def open_address(request: str | urllib.request.Request, timeout: float) -> Any:
    """As urllib.request.urlopen, for reading as a stream that ends with TimeoutError where it is too slow."""
    return urllib.request.build_opener(_Handler, _SafeHandler, _Redirects).open(request, timeout=timeout)


def reachable(url: str, seconds: float = 3) -> bool:
    """Whether the server of an address, or the proxy to it, takes a connection in time. Looking its name up, which no
    timeout ends, is left to a thread. Nothing is reachable where HF_HUB_OFFLINE is set, which timm heeds too.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
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
            socket.create_connection(address, seconds),
        ):
            answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def cache_folder() -> Path:
    """Where downloaded weights are kept: mobilenets/ under XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilenets"


def download(
    url: str,
    path: Path,
    timeout: float = 20,
    *,
    digest: str | None = None,
    keep: bool = False,
    tries: int = 1,
    pause: float = 1.0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Fetches url to path; the file appears under its name only when it is complete and has the `digest` (such as
    md5:0123...), if that is known.

    A transfer that breaks off is taken up where it ended, until `tries` in a row, `pause` seconds apart, bring nothing
    new. With `keep` what was fetched is still there for the next call. A file of more than `max_bytes`, announced or
    not, is refused.

    Raises:
        UserError: the address does not answer, the transfer ends early, or the file is not the one that was published.
    """
    partial = path.with_name(f"{path.name}.part" if keep else f"{path.name}.{os.getpid()}.part")
    failures = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_symlink():  # which would be written through, in a folder of another's
            partial.unlink()
        while True:
            before = _size(partial)
            try:
                _fetch(url, partial, timeout, max_bytes)
                break
            except (OSError, HTTPException) as error:
                # a server that is too slow does not go on and on by a few bytes a time
                least = MIN_SPEED * PATIENCE if isinstance(error, TimeoutError) else 1
                failures = 1 if _size(partial) - before >= least else failures + 1
                final = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
                if final or failures >= (tries if _size(partial) else min(tries, 2)):  # nobody answers
                    raise
                time.sleep(pause)
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


def _fetch(url: str, partial: Path, timeout: float, max_bytes: int) -> None:
    """Appends what is missing of a file; OSError where it breaks off, UserError where it is too large."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = open_address(request, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # it was complete already
            return
        partial.unlink()  # longer than what is there: of another file
        raise OSError("the part on disk is of another file") from error
    with response, Progress(*COLUMNS, console=Console(), transient=True) as progress:
        have = have if response.status == 206 else 0  # else the server begins anew
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
    """How long the file will be, by the announced length of what is missing; None where none is announced."""
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
