"""Models on the Hugging Face Hub: published as safetensors and a card, and opened by hub://<owner>/<name>.

Only a command line or a caller names a repository. One file is downloaded from it, the weights with their header, which
is checked like that of any checkpoint (SECURITY.md).
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backbones.errors import UserError, first_line
from backbones.files import is_within

log = logging.getLogger(__name__)

PREFIX = "hub://"
FILE = "model.safetensors"
MAX_BYTES = 2_000_000_000  # of a model
MAX_CARD = 1 << 20  # bytes
ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_hub(path: object) -> bool:
    """Whether it is the address of a model on the Hub."""
    return str(path).startswith(PREFIX)


def local(path: str) -> str:
    """The given path; for hub://<owner>/<name>[@revision], the path of the downloaded file.

    Raises:
        UserError: see `fetch`.
    """
    return str(fetch(path)) if is_hub(path) else path


def parse(address: str) -> tuple[str, str | None]:
    """The repository and the revision of an address.

    Raises:
        UserError: it is not the address of a model.
    """
    match = ADDRESS.fullmatch(address.removeprefix(PREFIX))
    if not match or ".." in address:
        raise UserError(f"{address:.100} is not the address of a model; it must be {PREFIX}<owner>/<name>")
    return match["repo"], match["revision"]


def fetch(address: str) -> Path:
    """The file of a model on the Hub, downloaded once; if the Hub cannot be reached, the copy in the cache.

    Raises:
        UserError: there is no such model, it cannot be obtained, or is larger than a model of this suite.
    """
    repo, revision = parse(address)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    with one_line(address):
        try:
            facts = get_hf_file_metadata(hf_hub_url(repo, FILE, revision=revision))
        except EntryNotFoundError as error:
            raise UserError(f"{address} has no {FILE}; it is not a model of this suite") from error
        except HfHubHTTPError:
            raise
        except Exception as error:  # offline, or no connection: the HTTP library raises its own kinds
            copy = try_to_load_from_cache(repo, FILE, revision=revision)
            if not isinstance(copy, str):
                raise UserError(f"{address} cannot be reached, and the cache has no copy of it: {error}") from error
            log.warning("%s cannot be reached; using the copy in the cache", address)
            return Path(copy)
        if facts.size is None or facts.size > MAX_BYTES:
            raise UserError(f"{address} is larger than the limit of {MAX_BYTES} bytes, or its size is not known")
        return Path(hf_hub_download(repo, FILE, revision=revision, tqdm_class=bar(address, facts.size)))


def bar(address: str, size: int) -> Any:
    """A progress bar class that aborts a download of more than the announced `size` in bytes."""
    from huggingface_hub.utils import tqdm

    class Bounded(tqdm):
        came: float = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.came += n or 0
            if self.came > size:
                raise UserError(f"{address} sends more than the {size} bytes that it announced")
            return super().update(n)

    return Bounded


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turns errors of the Hub and of the connection to it into one line."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except UserError:
        raise
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(f"{what}: there is no such repository, or it needs a login: hf auth login") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; log in with: hf auth login" if status in (401, 403) else ""
        raise UserError(f"{what}: the Hub responded with status {status}{hint}") from error
    except Exception as error:  # the HTTP library raises its own kinds
        raise UserError(f"{what}: {first_line(error):.200}") from error


def push(config: dict[str, Any]) -> None:
    """Publishes what conf/hub.yaml describes: the weights as safetensors, never a pickle, and the card.

    Raises:
        UserError: there is no such checkpoint, the repository's name is invalid, or the Hub refuses.
    """
    if is_hub(config["repo"]):
        config["repo"] = config["repo"].removeprefix(PREFIX)
    repo, revision = parse(config["repo"])
    if revision:
        raise UserError(f"repo={config['repo']}: a model is pushed without @<revision>")
    from huggingface_hub import HfApi

    from backbones.console import Console

    api = HfApi()
    with TemporaryDirectory() as place, one_line(f"repo={repo}"):
        folder = Path(place)
        write(config["ckpt"], folder, config["license"])
        api.create_repo(repo, private=config["private"], exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Add the model")
        size = (folder / FILE).stat().st_size / 1e6
    console = Console()
    console.print(f"published {size:.1f} MB as {api.endpoint}/{repo}", soft_wrap=True, highlight=False)
    console.print(f"try: python -m tasks.predict ckpt={PREFIX}{repo} input=<image>", soft_wrap=True, highlight=False)


def write(path: str, folder: Path, licence: str | None = None) -> None:
    """Writes what is published of a run, a checkpoint or an export: the weights with their header, and the card.

    The folder can be loaded like the repository. An export's own card is copied. Paths and addresses in the settings
    are cut to their last part.

    Raises:
        UserError: it is none of these, an export of another format than torch, or a multi-task run; it has links out of
            its folder, or a card of more than MAX_CARD bytes; or `licence` is given and not in its own card.
    """
    from tasks.engine.checkpoint import find_checkpoint, load_checkpoint
    from tasks.export.card import CARD
    from tasks.export.package import read_spec, without_paths
    from tasks.export.to_torch import write_checkpoint

    source = Path(path)
    export = (source / "model.json").is_file()
    if export and (file_format := read_spec(source)["format"]) != "torch":
        raise UserError(
            f"ckpt={path}: format={file_format} is not published; give its run, or export it with format=torch"
        )
    own, weights = source / CARD, find_checkpoint(source)
    if linked := next((p for p in (own, weights) if source.is_dir() and not is_within(p, source)), None):
        raise UserError(f"{linked} is a link out of {source}, and its target is not published")
    checkpoint = load_checkpoint(weights)
    suite = checkpoint["suite"]
    if suite["task"] == "backbone":
        raise UserError(f"ckpt={path} contains only a backbone; only complete models are published")
    if export and own.is_file() and own.stat().st_size > MAX_CARD:
        raise UserError(f"{own} is larger than {MAX_CARD >> 20} MiB, the limit for a card; shorten it")
    kept = own.read_bytes() if export and own.is_file() else None
    if kept and licence and f"\nlicense: {licence}\n".encode() not in kept:
        raise UserError(
            f"license={licence} is for a new card; {own} is published as it is: add the line `license: {licence}` "
            "below its first line"
        )
    if not kept and "parts" in suite["config"]:
        raise UserError(
            f"ckpt={path} is a multi-task run: export it with part=all format=torch and push that folder, which has a "
            "card of its tasks"
        )
    (folder / CARD).write_bytes(kept or described(checkpoint, licence).encode())
    published = checkpoint | {"suite": suite | {"config": without_paths(suite["config"])}}
    write_checkpoint(published, "uint8_nhwc", folder / FILE)


def described(checkpoint: dict[str, Any], licence: str | None) -> str:
    """The card of a checkpoint that was not exported."""
    from tasks.engine.task import restore
    from tasks.export.card import card

    module, suite = restore(checkpoint), checkpoint["suite"]
    cost = module.model.cost(module.resolution)
    facts = {
        "task": suite["task"],
        "input": {"size": module.resolution},
        "labels": module.labels,
        "cost": cost.millions,
        "provenance": {"config": suite["config"]},
        "pretrained": module.resolved.get("pretrained"),
        "metrics": {
            "primary": module.primary,
            "before": {name: value for name, value in suite["metrics"].items() if name != "primary"},
        },
    }
    return card(facts, module.result_type, licence)
