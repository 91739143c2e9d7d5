"""Downloads that show progress and never leave a half file under the final name."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from backbones.errors import UserError


def cache_folder() -> Path:
    """Where downloaded weights are kept: mobilenets/ under XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilenets"


def download(url: str, path: Path, timeout: float = 20) -> None:
    """Fetches url to path; the file appears under its name only when it is whole.

    Raises:
        UserError: the address does not answer, or the transfer ends early.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, partial.open("wb") as file:
            length = int(response.headers.get("Content-Length") or 0)
            with Progress(*columns, transient=True) as progress:
                bar = progress.add_task("", total=length or None)
                while chunk := response.read(1 << 16):
                    file.write(chunk)
                    progress.advance(bar, len(chunk))
        if length and partial.stat().st_size != length:
            raise OSError(f"it ended after {partial.stat().st_size} of {length} bytes")
        partial.replace(path)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be downloaded ({reason}); put the file at {path} by hand") from error
    finally:
        partial.unlink(missing_ok=True)
