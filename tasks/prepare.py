"""python -m tasks.prepare data=<name>: downloads a public data set, checks it and unpacks it in data.root."""

import os
from pathlib import Path
from typing import Any

import yaml

from backbones.console import Console
from backbones.download import download, matches
from backbones.errors import UserError
from backbones.files import sync
from data.unpack import unpack
from tasks.engine.config import CONF, arguments, load_config, one_line_errors

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
TRIES = 8  # in a row that bring nothing new
console = Console()


def sources() -> dict[str, Any]:
    """The public data sets: their files, terms and steps."""
    found: dict[str, Any] = yaml.safe_load((CONF / "sources.yaml").read_text())
    return found


def prepare(name: str, source: dict[str, Any], root: Path, keep: bool, pause: float = 5.0) -> None:
    """Downloads and unpacks the missing files of a data set to root; what is done already is skipped.

    Raises:
        UserError: a file cannot be obtained or unpacked, is not the published one, or must be downloaded by hand.
    """
    console.print(source["terms"], soft_wrap=True)
    missing = []
    for file in source["files"]:
        file = {"name": str(file.get("url", "")).rpartition("/")[2], **file}
        done, path = root / ".prepared" / file["name"], root / file["name"]
        if done.exists():
            console.print(f"{file['name']} is already there")
            continue
        if not path.exists() and "url" not in file:
            missing.append(path)
            continue
        fetch(file, path, pause)
        if path.name.endswith(ARCHIVES):
            console.print(f"unpacking {path.name}")
            count = unpack(path, root / file.get("to", ""), file.get("strip", 0), file.get("nested", False))
            console.print(f"{count} files in {root / file.get('to', '')}", soft_wrap=True)
            os.sync()  # syncing file by file would take minutes
        done.parent.mkdir(exist_ok=True)
        done.touch()
        sync(done.parent)
        if path.name.endswith(ARCHIVES) and not keep:
            path.unlink()
    if missing:
        steps = [*source["steps"], f"put into {root}: {', '.join(p.name for p in missing)}", "run this command again"]
        for number, step in enumerate(steps, start=1):
            console.print(f"{number}. {step}", soft_wrap=True, highlight=False)
        raise UserError(f"data={name}: {len(missing)} files must be downloaded by hand; see the steps above")
    console.print(f"ready: {root}", soft_wrap=True)


def fetch(file: dict[str, Any], path: Path, pause: float) -> None:
    """Downloads a file, or checks one that is already there."""
    if path.exists():
        console.print(f"checking {path.name}")
        if not matches(path, file["digest"]):
            raise UserError(f"{path} is not the published file: its digest is not {file['digest']}; delete it")
        return
    console.print(f"downloading {file['url']}", soft_wrap=True)
    download(file["url"], path, digest=file["digest"], keep=True, tries=TRIES, pause=pause)


def main() -> None:
    with one_line_errors():
        config = load_config(arguments("prepare"), "prepare")
        name, known = config["groups"]["data"], sources()
        if name not in known:
            raise UserError(f"data={name} cannot be downloaded; choose from {', '.join(known)}")
        prepare(name, known[name], Path(config["data"]["root"]), config["keep"])


if __name__ == "__main__":
    main()
