"""Downloads that show progress, go on where they broke off, and never leave a half file under the final name."""

import hashlib
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from backbones.errors import UserError

COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())


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
) -> None:
    """Fetches url to path; the file appears under its name only when it is whole, and has the `digest` (such as
    md5:0123...), if that is known.

    A transfer that breaks off is taken up where it ended, until `tries` in a row, `pause` seconds apart, bring nothing
    new. With `keep` what was fetched is still there for the next call.

    Raises:
        UserError: the address does not answer, the transfer ends early, or the file is not the one that was published.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part" if keep else f"{path.name}.{os.getpid()}.part")
    failures = 0
    try:
        while True:
            before = _size(partial)
            try:
                _fetch(url, partial, timeout)
                break
            except (OSError, HTTPException) as error:
                failures = 1 if _size(partial) > before else failures + 1
                final = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
                if final or failures >= (tries if _size(partial) else min(tries, 2)):  # nobody answers
                    raise
                time.sleep(pause)
        if digest and not matches(partial, digest):
            partial.unlink()
            raise UserError(f"{url} is not the file that was published: its {digest.split(':')[0]} differs; try again")
        partial.replace(path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be downloaded ({reason}); put the file at {path} by hand") from error
    finally:
        if not keep:
            partial.unlink(missing_ok=True)


def _fetch(url: str, partial: Path, timeout: float) -> None:
    """Appends what is missing of a file; OSError where it breaks off."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # it was whole already
            return
        partial.unlink()  # longer than what is there: of another file
        raise OSError("the part on disk is of another file") from error
    with response, Progress(*COLUMNS, transient=True) as progress:
        have = have if response.status == 206 else 0  # else the server begins anew
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = progress.add_task(partial.name.removesuffix(".part"), total=total, completed=have)
        with partial.open("ab" if have else "wb") as file:
            while chunk := response.read(1 << 16):
                file.write(chunk)
                progress.advance(bar, len(chunk))
    if total is not None and _size(partial) != total:
        raise OSError(f"it ended after {_size(partial)} of {total} bytes")


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest such as md5:0123..."""
    kind, _, wanted = digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == wanted


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
