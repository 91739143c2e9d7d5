"""Models on the Hub: pushed to and loaded from a local server that speaks the Hub's HTTP interface."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors import safe_open

from backbones.errors import UserError
from tasks import load
from tasks.export.__main__ import execute as export
from tasks.inference import hub
from tests.conftest import ROOT, untrained

SMALL = ("backbone.alpha=0.25", "task.resolution=96", "data.batch_size=8", "data.workers=0")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "of-the-test"


class Hub(ThreadingHTTPServer):
    """Repositories in memory. For some, `lies` are served instead: headers, and content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.lies: dict[str, tuple[dict[str, str], bytes]] = {}


class Handler(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub to make a repository, upload files by Git LFS, commit, and download."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any = b"", status: int = 200, **headers: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def note(self) -> str:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        return path

    def do_POST(self) -> None:
        path, body, hub = self.note(), self.body(), self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or b'"mal"' in body:
            return self.answer({"error": "not allowed"}, 403)
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            content = json.loads(body)
            name = f"{content['organization']}/{content['name']}"
            hub.private.setdefault(name, content.get("visibility") == "private" or content.get("private") is True)
            return self.answer({"url": f"{hub.url}/{name}"}, 409 if name in hub.repos else 200)
        if path == "/api/validate-yaml":
            _, head, _ = json.loads(body)["content"].split("---\n", 2)
            assert isinstance(yaml.safe_load(head), dict)
            return self.answer({"errors": [], "warnings": []})
        if parts[-2:-1] == ["preupload"]:
            kinds = {True: "lfs", False: "regular"}
            names = [file["path"] for file in json.loads(body)["files"]]
            rows = [{"path": n, "uploadMode": kinds[n.endswith(".safetensors")], "shouldIgnore": False} for n in names]
            return self.answer({"files": rows})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            rows = [{**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}} for o in objects]
            return self.answer({"transfer": "basic", "objects": rows})
        if parts[-2:-1] == ["commit"]:
            name = "/".join(parts[2:4])
            repo = hub.repos.setdefault(name, {})
            for row in map(json.loads, body.splitlines()):
                value = row["value"]
                if row["key"] == "file":
                    repo[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    repo[value["path"]] = hub.large[value["oid"]]
            return self.answer({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.answer({}, 404)

    def do_PUT(self) -> None:
        oid, body = self.note().rpartition("/")[2], self.body()
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self.answer()

    def do_GET(self) -> None:
        owner, name, _, _, *rest = [*self.note().strip("/").split("/"), *5 * [""]]
        repo, file = f"{owner}/{name}", "/".join(filter(None, rest))
        if repo not in self.server.repos:
            return self.answer({}, 404, **{"X-Error-Code": "RepoNotFound"})
        if file not in self.server.repos[repo]:
            return self.answer({}, 404, **{"X-Error-Code": "EntryNotFound"})
        content = self.server.repos[repo][file]
        headers: dict[str, Any] = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        more, content = self.server.lies.get(repo, ({}, content))
        return self.answer(content, **(headers | (more if self.command == "HEAD" else {})))

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def run(dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(
        tmp_path_factory.mktemp("run") / "a", *SMALL, "task=dogs", "data=dogs", f"data.root={dogs}", "name=a"
    )


class Ran(NamedTuple):
    """A folder with the results of commands, and each one's status and output."""

    place: Path
    answers: dict[str, dict[str, Any]]


LIES: dict[str, tuple[dict[str, str], bytes]] = {  # headers, and the content that is sent
    "huge": ({"X-Linked-Size": str(10**12), "X-Linked-Etag": '"a"'}, b""),
    "more": ({"Content-Length": "5"}, b"0123456789"),
    "junk": ({}, b"no tensors"),
    "torn": ({"Content-Length": "50"}, b"0123456789"),
}
DRIVER = """
import io, json, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
answers = []
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv, said, status = [module, *arguments], io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            runpy.run_module(f"tasks.{module}", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            status = end.code
    answers.append(json.dumps({"status": status, "said": said.getvalue()}))
print("\\t".join(answers))
"""


@pytest.fixture(scope="module")
def ran(server: Hub, run: Path, dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The results of commands, run one after the other in one process with the server as its Hub."""
    place = tmp_path_factory.mktemp("hub")
    image = next((dogs / "Images").rglob("*.jpg"))
    for name, lie in LIES.items():
        server.repos[f"eve/{name}"] = {"model.safetensors": lie[1], "README.md": b""}
        server.lies[f"eve/{name}"] = lie
    server.repos["eve/pickle"] = {"model.ckpt": b"evil"}
    lines = {
        "push": f"hub ckpt={run} repo=ann/dogs license=apache-2.0",
        "refused": f"hub ckpt={run} repo=mal/new",
        "unnamed": f"hub ckpt={run} repo=new",
        "none": "hub",
        "run": f"predict ckpt={run} input={image} output={place / 'by_run'}",
        **{
            address: f"predict ckpt=hub://{address} input={image} output={place / 'by_hub'}"
            for address in ("ann/dogs", "ann/cats", "ann/dogs/../cats", "eve/pickle", *(f"eve/{lie}" for lie in LIES))
        },
    }
    lines["open"] = lines["push"].replace("ann/dogs", "ann/open") + " private=false"
    lines["v1"] = lines["ann/dogs"].replace("ann/dogs", "ann/dogs@v1")
    hidden = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(place), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    own |= {"HF_HUB_DISABLE_XET": "1", "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps([line.split() for line in lines.values()])],
        cwd=ROOT,
        env=hidden | own,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = dict(zip(lines, map(json.loads, result.stdout.splitlines()[-1:][0].split("\t")), strict=True))
    return Ran(place, answers)


def test_pushed_and_used_by_its_name(ran: Ran, server: Hub, dogs: Path) -> None:
    for name in ("push", "run", "ann/dogs", "v1", "open"):
        assert ran.answers[name]["status"] == 0, ran.answers[name]
    assert "try: python -m tasks.predict ckpt=hub://ann/dogs" in ran.answers["push"]["said"]
    classes = [json.loads((ran.place / f"by_{name}" / "predictions.jsonl").read_text()) for name in ("hub", "run")]
    assert classes[0]["classes"] == classes[1]["classes"]
    repo = server.repos["ann/dogs"]
    assert repo.keys() == {"README.md", "model.safetensors"}  # no pickle, no program
    assert (server.private["ann/dogs"], server.private["ann/open"]) == (True, False)
    assert b"license: apache-2.0" in repo["README.md"]
    assert all(str(dogs.parent).encode() not in content for content in repo.values())
    got = {path for path in server.asked if path.startswith("GET /ann")}
    assert got == {"GET /ann/dogs/resolve/main/model.safetensors"}
    assert "HEAD /ann/dogs/resolve/v1/model.safetensors" in server.asked


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("refused", "log in with: hf auth login"),
        ("unnamed", "must be hub://<owner>/<name>"),
        ("none", "give ckpt=<value>"),
        ("ann/cats", "there is no such repository"),
        ("ann/dogs/../cats", "is not the address of a model"),
        ("eve/pickle", "has no model.safetensors"),
        ("eve/huge", "is larger than"),
        ("eve/more", "sends more than the 5 bytes"),
        ("eve/junk", "cannot be read"),
        ("eve/torn", "eve/torn"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(ran: Ran, server: Hub, name: str, words: str) -> None:
    answer = ran.answers[name]
    assert answer["status"] == 2, answer
    (line,) = [line for line in answer["said"].splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in answer["said"]
    assert "mal/new" not in server.repos


def test_what_was_downloaded_is_used_offline(ran: Ran, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(ran.place / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert load("hub://ann/dogs").task == "dogs"
    with pytest.raises(UserError, match="the cache has no copy of it"):
        load("hub://ann/cats")
    assert server.asked == []


def test_a_folder_works_as_the_repository_does(run: Path, dogs: Path, tmp_path: Path) -> None:
    """Without a network: what would be published, written into a folder."""
    hub.write(str(run), tmp_path)
    image = next((dogs / "Images").rglob("*.jpg"))
    here, there = (next(load(path).predict(image)).to_dict() for path in (tmp_path, run))
    assert here == there


def test_the_card_of_an_export_is_published_as_it_is(run: Path, tmp_path: Path) -> None:
    folder = export([f"ckpt={run}", f"output={tmp_path / 'export'}", "format=torch", "max_drop=100"])
    own = (folder / "README.md").read_text() + "\nOur own words.\n"
    (folder / "README.md").write_text(own)
    (tmp_path / "new").mkdir()
    hub.write(str(folder), tmp_path / "new")
    assert (tmp_path / "new" / "README.md").read_text() == own
    with pytest.raises(UserError, match=r"license=mit is for a new card; .* add the line `license: mit`"):
        hub.write(str(folder), tmp_path / "new", "mit")
    (folder / "README.md").write_text(own.replace("---\n", "---\nlicense: mit\n", 1))
    hub.write(str(folder), tmp_path / "new", "mit")
    (folder / "README.md").write_text(own + " " * hub.MAX_CARD)
    with pytest.raises(UserError, match=r"README\.md is larger than 1 MiB, the limit for a card"):
        hub.write(str(folder), tmp_path / "new")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | {"format": "onnx", "file": "model.onnx"}))
    with pytest.raises(UserError, match="format=onnx is not published"):
        hub.write(str(folder), tmp_path / "new")


@pytest.mark.parametrize("name", ["README.md", hub.FILE])
def test_no_link_is_published(name: str, run: Path, tmp_path: Path) -> None:
    """An export may come from others: its card could link to any file, its weights to another model's."""
    folder = export([f"ckpt={run}", f"output={tmp_path / 'export'}", "format=torch", "max_drop=100"])
    (folder / name).rename(tmp_path / "private")
    (folder / name).symlink_to(tmp_path / "private")
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match=f"{name} is a link out of"):
        hub.write(str(folder), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_no_folder_of_this_machine_is_published(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    config = content["suite"]["config"]
    config["data"]["root"], config["paths"]["runs"] = "/home/ann/secret/dogs", "C:\\ann\\runs"
    config["teacher"] = "https://ann.example/teacher.onnx?key=ab/secret&b=/secret#/secret"
    config["backbone"]["weights"] = "https://ann:secret@ann.example:8443"
    torch.save(content, tmp_path / "a.ckpt")
    hub.write(str(tmp_path / "a.ckpt"), tmp_path)
    with safe_open(tmp_path / hub.FILE, "pt") as file:
        header = file.metadata()["suite"]
    assert json.loads(header)["config"]["data"]["root"] == "dogs"
    assert "ann" not in header
    assert "secret" not in header + (tmp_path / "README.md").read_text()
    assert load(tmp_path).class_names


def test_no_file_makes_the_hub_be_asked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that names repositories is opened as any other; the names are not followed."""
    monkeypatch.setattr(hub, "fetch", lambda address: pytest.fail(f"asked for {address}"))
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"] |= {"ckpt": "hub://eve/x", "teacher": "hub://eve/x", "resume": "hub://eve/x"}
    content["suite"]["config"]["backbone"]["weights"] = "hub://eve/x"
    torch.save(content, tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt").task == "dogs"
