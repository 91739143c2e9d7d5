"""The runtimes for browsers, pinned by version and by the digest of each file."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backbones.download import cache_folder
from backbones.errors import UserError
from backbones.files import atomic_write


@dataclass(frozen=True)
class Runtime:
    """An npm package that runs one format."""

    package: str
    version: str
    folder: str  # in the package
    integrity: dict[str, str]  # of each file that pages may need, as in HTML's attribute `integrity`

    @property
    def release(self) -> str:
        return f"{self.package}@{self.version}"

    def files(self, names: tuple[str, ...], folder: str | None) -> list[bytes]:
        """Files of the package, from the given folder `node_modules`, or from the cache, which npm fills.

        Raises:
            UserError: the npm client is missing or fails, or a file is absent or differs from the pinned one.
        """
        where = Path(folder) / self.package / self.folder if folder else self.cache()
        if not folder and not all((where / name).is_file() for name in names):
            self.fetch(where)
        return [self.checked(where / name) for name in names]

    def cache(self) -> Path:
        return cache_folder() / f"{self.package}-{self.version}"

    def checked(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            UserError: it is absent, or differs from the pinned one.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); runtime_folder is the folder node_modules after "
                f"npm install {self.release}"
            ) from error
        if integrity(content) != self.integrity[path.name]:
            raise UserError(f"{path} is not that of {self.release}; delete it, or give another runtime_folder=")
        return content

    def fetch(self, target: Path) -> None:
        """Downloads the package with npm, and keeps the files that pages may need in `target`."""
        manual = f"or npm install {self.release} elsewhere and give its node_modules as runtime_folder="
        npm = shutil.which("npm")
        if not npm:
            raise UserError(f"the runtime is downloaded with npm, which is not installed: install Node.js, {manual}")
        with tempfile.TemporaryDirectory() as folder:
            command = [npm, "pack", self.release, "--ignore-scripts", "--silent"]
            try:
                result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
            except subprocess.TimeoutExpired as error:
                raise UserError(f"npm did not fetch {self.release} in 10 minutes; try again, {manual}") from error
            archives = list(Path(folder).glob("*.tgz"))
            if result.returncode or not archives:
                words = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
                raise UserError(f"npm cannot fetch {self.release} ({words[0]}); {manual}")
            target.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archives[0]) as archive:
                for name in self.integrity:
                    member = archive.extractfile(f"package/{self.folder}/{name}")
                    assert member, "npm has verified the package"
                    partial = Path(folder) / name
                    partial.write_bytes(member.read())
                    self.checked(partial)
                    with atomic_write(target / name) as file:
                        file.write(partial.read_bytes())


def integrity(content: bytes) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


ONNX = Runtime(
    "onnxruntime-web",
    "1.30.0",
    "dist",
    {
        "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
        "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
        "ort.webgpu.bundle.min.mjs": "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
        "ort-wasm-simd-threaded.asyncify.wasm": (
            "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR"
        ),
    },
)
LITERT = Runtime(
    "@litertjs/core",
    "2.5.3",
    "wasm",
    {
        "litert_wasm_threaded_internal.js": "sha384-yzheND5ZxfO4+9po2DFoaMqr56eo7p10JiuyDXIbNqi2MOTw/8AIm1CtEe5Dqz62",
        "litert_wasm_threaded_internal.wasm": "sha384-W0YLgt+poOZCNAm54r2Ga6K2PmHezmLMKtO5RvIFQtK8ji5wvIW56LEwGn4eH0Cb",
        "litert_wasm_compat_internal.js": "sha384-oh4nb8zDq6eVOpGeZE5gwDOJ16QujHLL8k/HEXt3XiPxr+8zn3YnkXP8P3BlJET1",
        "litert_wasm_compat_internal.wasm": "sha384-glAZ6WjS7tLRt89pbTPXvLC1c7DCaVSfL2ngn5gZJiUuPs76fWYJy7ZeFaD0PJXx",
    },
)
RUNTIMES = {"onnx": ONNX, "litert": LITERT}  # by the format that they run


def runtime_names(file_format: str, webgpu: bool) -> tuple[str, ...]:
    """The files of a format's runtime that a page loads: JavaScript and WebAssembly, and for LiteRT a second pair for
    browsers without relaxed SIMD, such as Safari.
    """
    if file_format == "litert":
        return tuple(LITERT.integrity)
    return tuple(ONNX.integrity)[2:] if webgpu else tuple(ONNX.integrity)[:2]
