"""Public data sets: fetched from a server that drops connections, checked, unpacked, or asked for by hand."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from backbones.download import download
from backbones.errors import UserError
from data.unpack import unpack
from tasks import prepare as command
from tasks.engine.config import CONF, load_config
from tasks.prepare import prepare, sources

pytestmark = pytest.mark.usefixtures("online")
CHUNK = 70_000  # bytes after which the server hangs up


class Server(BaseHTTPRequestHandler):
    """Sends at most CHUNK bytes of a file per connection, whatever it announced. Below /anew/ it ignores ranges."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and "/anew/" not in self.path else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + CHUNK])

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Server.files, Server.asked = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def noise(length: int) -> bytes:
    return hashlib.shake_128(b"seed").digest(length)


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def tarred(files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w", **attributes: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- downloading -----------------------------------------------------------------------------------------


def test_a_transfer_goes_on_where_it_was_dropped(server: str, tmp_path: Path) -> None:
    content = noise(3 * CHUNK + 5)
    Server.files["a.bin"] = content
    download(f"{server}/a.bin", tmp_path / "a.bin", digest=md5(content), tries=2, pause=0)
    assert (tmp_path / "a.bin").read_bytes() == content
    assert Server.asked == [None, *(f"bytes={i * CHUNK}-" for i in (1, 2, 3))]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_another_call_goes_on_where_the_last_one_gave_up(server: str, tmp_path: Path) -> None:
    content = noise(2 * CHUNK)
    (tmp_path / "a.bin.part").write_bytes(content[:CHUNK])
    Server.files["a.bin"] = content
    download(f"{server}/a.bin", tmp_path / "a.bin", keep=True, digest=md5(content))
    assert Server.asked == [f"bytes={CHUNK}-"]
    (tmp_path / "a.bin").rename(tmp_path / "b.bin.part")  # whole, but for its name
    Server.files["b.bin"] = content
    download(f"{server}/b.bin", tmp_path / "b.bin", keep=True, digest=md5(content))
    assert (tmp_path / "b.bin").read_bytes() == content


def test_a_server_without_ranges_cannot_help(server: str, tmp_path: Path) -> None:
    Server.files["a.bin"] = noise(2 * CHUNK)
    with pytest.raises(UserError, match=rf"cannot be downloaded \(it ended after {CHUNK} of {2 * CHUNK}") as error:
        download(f"{server}/anew/a.bin", tmp_path / "a.bin", keep=True, tries=3, pause=0)
    one_line(error)
    assert len(Server.asked) == 3
    assert (tmp_path / "a.bin.part").stat().st_size == CHUNK
    Server.files["a.bin"] = noise(CHUNK // 2)  # shorter than the partial file here
    download(f"{server}/anew/a.bin", tmp_path / "a.bin", keep=True)
    assert (tmp_path / "a.bin").read_bytes() == noise(CHUNK // 2)


def test_another_file_than_was_published(server: str, tmp_path: Path) -> None:
    Server.files["a.bin"] = b"something else"
    with pytest.raises(UserError, match="is not the file that was published: its md5 differs") as error:
        download(f"{server}/a.bin", tmp_path / "a.bin", keep=True, digest=md5(b"something"))
    one_line(error)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"cannot be downloaded \(Not Found\)"):
        download(f"{server}/none.bin", tmp_path / "none.bin", keep=True, tries=9)


# --- unpacking -------------------------------------------------------------------------------------------

FILES = {"top/one/a.txt": b"a", "top/one/b.txt": b"bb", "top/c.txt": b""}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
@pytest.mark.parametrize("strip", [0, 1])
def test_archives_become_folders(name: str, strip: int, tmp_path: Path) -> None:
    content = zipped(FILES) if name == "x.zip" else tarred(FILES, "w:gz" if name == "x.tgz" else "w")
    (tmp_path / name).write_bytes(content)
    assert unpack(tmp_path / name, tmp_path / "out", strip) == 3
    for file, content in FILES.items():
        assert tmp_path.joinpath("out", *file.split("/")[strip:]).read_bytes() == content


@pytest.mark.parametrize("outside", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt"])
@pytest.mark.parametrize("pack", [tarred, zipped])
def test_nothing_is_written_outside(pack: Any, outside: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    (tmp_path / "x").write_bytes(pack({"fine.txt": b"fine", outside: b"evil"}))
    with pytest.raises(UserError, match="which would be written outside of") as error:
        unpack(tmp_path / "x", folder)
    one_line(error)
    assert [p.name for p in tmp_path.rglob("*")] == ["x"]  # and nothing else either


@pytest.mark.parametrize("name", ["...tar", "a/...tar", "..tar"])
def test_a_nested_archive_becomes_a_folder_inside(name: str, tmp_path: Path) -> None:
    """Its folder has its name without the suffix, which is `..` for `...tar`."""
    (tmp_path / "x").write_bytes(tarred({"fine.tar": tarred(FILES), name: tarred({"evil.txt": b"evil"})}))
    with pytest.raises(UserError, match="which would be written outside of") as error:
        unpack(tmp_path / "x", tmp_path / "deep" / "out", nested=True)
    one_line(error)
    assert [p.name for p in tmp_path.rglob("*")] == ["x"]


def test_links_and_torn_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, words in (
        (tarred({"link": b""}, type=tarfile.SYMTYPE, linkname="/etc"), "neither a file nor a folder; it is refused"),
        (zipped({"link": b"/etc"}, mode=0o120777), "holds the link 'link'; it is refused"),
        (tarred({"a": noise(9000)})[:5000], "is damaged: unexpected end of data; delete it and prepare again"),
        (tarred(FILES, "w:gz")[:60], "is damaged: "),
        (b"no archive", "is damaged: "),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            unpack(path, tmp_path / "out")
        one_line(error)
        assert not (tmp_path / "out").exists()


# --- the command -----------------------------------------------------------------------------------------


def made(server: str) -> dict[str, Any]:
    """A data set of two archives and a list; its server drops the larger one's connections."""
    inner = {f"n{i}.tar": tarred({f"n{i}_0.JPEG": noise(10)}) for i in range(3)}
    Server.files = {
        "images.tar": tarred({"Images/a.jpg": noise(3 * CHUNK)}),
        "lists.zip": zipped({"list.txt": b"a"}),
        "train.tar": tarred(inner),
        "list.csv": b"a,b",
    }
    extra: dict[str, Any] = {"train.tar": {"to": "train", "nested": True}}
    files = [{"url": f"{server}/{n}", "digest": md5(c), **extra.get(n, {})} for n, c in Server.files.items()]
    return {"terms": "For research.", "files": files}


def test_a_data_set_is_prepared_once(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made(server)
    prepare("made", source, tmp_path, keep=False, pause=0)
    printed = capsys.readouterr().out
    assert "For research." in printed
    assert f"ready: {tmp_path}" in printed
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert [name for name in found if not name.startswith(".prepared")] == [
        *("Images/a.jpg", "list.csv", "list.txt"),
        *(f"train/n{i}/n{i}_0.JPEG" for i in range(3)),
    ]
    asked = len(Server.asked)
    prepare("made", source, tmp_path, keep=False)
    assert len(Server.asked) == asked
    assert "images.tar is already there" in capsys.readouterr().out


def test_files_behind_a_licence_are_asked_for_and_then_used(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {**made(server), "steps": ["accept the terms"]}
    for file in source["files"][2:]:
        file["name"] = file.pop("url").rpartition("/")[2]
    with pytest.raises(UserError, match="data=made: 2 files must be downloaded by hand; see the steps above"):
        prepare("made", source, tmp_path, keep=True, pause=0)
    steps = capsys.readouterr().out.splitlines()[-3:]
    assert steps == ["1. accept the terms", f"2. put into {tmp_path}: train.tar, list.csv", "3. run this command again"]
    (tmp_path / "train.tar").write_bytes(b"half")
    (tmp_path / "list.csv").write_bytes(Server.files["list.csv"])
    with pytest.raises(UserError, match=r"train\.tar is not the published file: its digest is not md5:.*; delete it"):
        prepare("made", source, tmp_path, keep=True)
    (tmp_path / "train.tar").write_bytes(Server.files["train.tar"])
    prepare("made", source, tmp_path, keep=True)
    assert (tmp_path / "train" / "n2" / "n2_0.JPEG").exists()
    assert (tmp_path / "train.tar").exists()  # kept


def test_every_source_is_a_data_set_that_knows_where_it_lies() -> None:
    for name, source in sources().items():
        config = load_config([f"data={name}"], "prepare")
        assert config["data"]["root"].startswith("datasets/")
        assert source["terms"]
        for file in source["files"]:
            kind, digest = file["digest"].split(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind]
            assert file.keys() <= {"url", "name", "digest", "to", "strip", "nested"}
            assert "url" in file or source["steps"]
    text = (CONF / "prepare.yaml").read_text()
    assert " | ".join(sources()) in text
    assert yaml.safe_load(text)


def test_what_nobody_publishes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for given, words in (
        (["data=demo_scenes"], "error: data=demo_scenes cannot be downloaded; choose from dogs, coco"),
        ([], "data"),
        (["data=cocoa"], "error: data=cocoa: choose from "),
    ):
        monkeypatch.setattr("sys.argv", ["prepare", *given])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1
