"""An archive and a server for it in its own process, since a process that forks should have no threads."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Archive(NamedTuple):
    files: dict[str, bytes]
    digests: list[tuple[str, str]]


@cache
def archive() -> Archive:
    """Two tar files of images, and a list."""
    files = {"list.txt": b"a\nb\n"}
    for name in ("train.tar", "val.tar"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for i in range(6):
                image = io.BytesIO()
                Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(image, "JPEG")
                member = tarfile.TarInfo(f"{name[:-4]}/{i}.jpg")
                member.size = len(image.getvalue())
                tar.addfile(member, io.BytesIO(image.getvalue()))
        files[name] = buffer.getvalue()
    return Archive(files, [(name, f"md5:{hashlib.md5(content).hexdigest()}") for name, content in files.items()])


@contextmanager
def serving() -> Iterator[str]:
    """The address at which the files are served."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in archive().files.items():
            (Path(folder) / name).write_bytes(content)
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        try:
            port = process.stdout.readline().split(" port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
