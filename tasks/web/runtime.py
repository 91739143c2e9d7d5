"""onnxruntime-web, pinned by version and by the digest of each file."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from backbones.download import cache_folder
from backbones.errors import UserError

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
# The module and its WebAssembly for the processor alone, and for the processor and WebGPU.
WASM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
INTEGRITY = {
    "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    "ort.webgpu.bundle.min.mjs": "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
    "ort-wasm-simd-threaded.asyncify.wasm": "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
}


def runtime_files(webgpu: bool, folder: str | None) -> tuple[bytes, bytes]:
    """The JavaScript module and the WebAssembly, of `folder` or else of the cache, which the npm client fills.

    Raises:
        UserError: the npm client is missing or fails, or a file is absent or not the one that is pinned.
    """
    names = WEBGPU if webgpu else WASM
    if folder:
        where = Path(folder)
    else:
        where = cache_folder() / f"{PACKAGE}-{VERSION}"
        if not all((where / name).is_file() for name in names):
            fetch(where)
    module, wasm = (checked(where / name) for name in names)
    return module, wasm


def checked(path: Path) -> bytes:
    """The content of a file that is the pinned one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); runtime_folder is the folder dist of the npm package "
            f"{PACKAGE}@{VERSION}"
        ) from error
    if integrity(content) != INTEGRITY[path.name]:
        raise UserError(f"{path} is not that of {PACKAGE} {VERSION}; delete it, or give another runtime_folder=")
    return content


def integrity(content: bytes) -> str:
    """As the attribute `integrity` of HTML has it."""
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


def fetch(target: Path) -> None:
    """Has the npm client download the package, and keeps what the page may need of it in `target`."""
    manual = f"or download {PACKAGE}@{VERSION} elsewhere and give its folder dist as runtime_folder="
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"the browser's runtime is fetched by npm, which is not installed: install Node.js, {manual}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
        try:
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"npm did not fetch {PACKAGE}@{VERSION} in 10 minutes; try again, {manual}") from error
        archives = list(Path(folder).glob("*.tgz"))
        if result.returncode or not archives:
            words = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
            raise UserError(f"npm cannot fetch {PACKAGE}@{VERSION} ({words[0]}); {manual}")
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in INTEGRITY:
                member = archive.extractfile(f"package/dist/{name}")
                assert member, "npm has verified the package"
                partial = Path(folder) / name
                partial.write_bytes(member.read())
                checked(partial)
                shutil.move(partial, target / name)
