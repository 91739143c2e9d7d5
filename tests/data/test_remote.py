"""Shards in an object store: moto's server, over HTTP."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backbones.download import cache_folder
from backbones.errors import UserError
from data.remote import check_address, open_kept
from data.tar import BadShard, read_samples
from tests.data.test_shards import data, server, shards  # noqa: F401  # fixtures

needs_moto = pytest.mark.skipif(
    importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None,
    reason="needs pip install '.[cloud]' moto flask flask-cors",
)
CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def store() -> Iterator[None]:
    """A local S3 server with the bucket `bucket`, which fsspec uses."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    serving = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    facts = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in facts.items():
            patch.setenv(name, value)
        fresh().mkdir("bucket")
        yield
    serving.stop()


def fresh():  # type: ignore[no-untyped-def]
    """fsspec's view of the store, without its cached listings."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def kept() -> int:
    return sum(path.stat().st_size for path in (cache_folder() / "files").glob("*"))


@needs_moto
@pytest.mark.parametrize("cache_gb", [0, 1])
def test_shards_in_a_store_are_those_on_disk(cache_gb: float, store: None, shards: Path) -> None:  # noqa: F811
    """In each epoch, with loader processes, without and with the cache."""
    system = fresh()
    for path in shards.glob("*.tar"):
        system.put(str(path), f"s3://bucket/{path.name}")
    there = {"train": "s3://bucket/train-{000..003}.tar", "val": "s3://bucket/val-000.tar"}
    settings = {"classes": "classes.txt", "train_count": 32, "workers": 2}
    loaders = [
        found.train_dataloader()
        for found in (data(shards, **settings), data(shards, **settings, **there, cache_gb=cache_gb))
    ]
    for _ in range(2):
        ours, wanted = (list(loader) for loader in reversed(loaders))
        assert len(ours) == len(wanted) == 8
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)
            assert [Path(path).name for path in one.paths] == [Path(path).name for path in other.paths]
    assert kept() == (sum(path.stat().st_size for path in shards.glob("train-*.tar")) if cache_gb else 0)


@needs_moto
def test_what_is_kept_is_bounded_and_as_it_is_now(store: None) -> None:
    system = fresh()
    for name in "abc":
        system.pipe(f"s3://bucket/{name}", name.encode() + CONTENT)
    most = 2 * len(CONTENT) + 100
    for name in "abcab":
        with open_kept(f"s3://bucket/{name}", most) as file:
            assert file.read() == name.encode() + CONTENT
        assert kept() <= most
    with open_kept("s3://bucket/a", 10) as file:  # more than all that may be kept
        assert file.read() == b"a" + CONTENT
    system.pipe("s3://bucket/b", b"new")
    fresh()
    with open_kept("s3://bucket/b", most) as file:
        assert file.read() == b"new"


@needs_moto
def test_what_is_not_in_a_store_is_a_bad_shard(store: None) -> None:
    fresh()
    for cache_bytes in (0, 1000):
        with pytest.raises(BadShard):
            list(read_samples("s3://bucket/none.tar", cache_bytes=cache_bytes))
        with pytest.raises(BadShard):
            list(read_samples("s3://none/none.tar", cache_bytes=cache_bytes))


def test_a_file_that_ends_early_is_not_kept(shards: Path, server: str) -> None:  # noqa: F811
    size = (shards / "val-000.tar").stat().st_size
    for place, complete in (("", True), ("cut/", False), ("", True)):
        if complete:
            with open_kept(f"{server}/{place}val-000.tar", size) as file:
                assert file.read() == (shards / "val-000.tar").read_bytes()
        else:
            with pytest.raises(OSError, match=f"it does not have the {size} bytes"):
                open_kept(f"{server}/{place}val-000.tar", 2 * size)
        assert kept() == size
    with open_kept(f"{server}/val-000.tar", size - 1) as file:  # more than all that may be kept
        assert file.read() == (shards / "val-000.tar").read_bytes()


def test_addresses_that_cannot_be_read() -> None:
    for address in ("ftp://host/a.tar", "file:///etc/passwd", "simplecache::s3://bucket/a.tar", "ssh://host/a"):
        with pytest.raises(UserError, match="addresses begin with http://, https://, s3://, gs://"):
            check_address(address)
