"""What each of the readers of shards reads, in each epoch."""

from collections import Counter
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from data.shards.stream import ShardStream
from data.tar import find_shards
from tests.data.test_shards import name, shards  # noqa: F401  # a fixture


def in_training(paths: list[str], readers: int, samples: int) -> list[ShardStream]:
    """A stream for each reader."""
    settings = {"world_size": readers, "num_samples": samples, "shuffle": 6}
    return [ShardStream(paths, name, rank=reader, **settings) for reader in range(readers)]


def names(stream: ShardStream) -> list[str]:
    """The samples of the stream's next epoch."""
    return [sample["name"] for sample in stream]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 1), (2, 2), (3, 2)])
def test_all_readers_together_read_everything_once(world_size: int, workers: int, shards: Path) -> None:  # noqa: F811
    paths = find_shards(shards, "train-{000..003}.tar")
    found: list[str] = []
    for rank in range(world_size):
        loader = DataLoader(
            ShardStream(paths, name, rank=rank, world_size=world_size), batch_size=None, num_workers=workers
        )
        found += [sample["name"] for sample in loader]
    assert Counter(found) == Counter(f"{p}/photos/{i * 8 + j:06d}" for i, p in enumerate(paths) for j in range(8))


@pytest.mark.parametrize("readers", [2, 6])
def test_training_takes_equal_shares_in_new_orders(readers: int, shards: Path) -> None:  # noqa: F811
    """In an epoch no two readers read the same image."""
    streams = in_training(find_shards(shards, "train-*.tar"), readers, samples=12)
    epochs = [[names(stream) for stream in streams] for _ in range(3)]
    for epoch in epochs:
        assert [len(own) for own in epoch] == [12] * readers
        assert len({n for own in epoch for n in own}) == sum(len({*own}) for own in epoch)
    for first, second, third in zip(*epochs, strict=True):
        assert {*first} != {*second} != {*third}


@pytest.mark.parametrize(("count", "readers"), [(3, 2), (2, 3)])
def test_over_epochs_all_images_are_seen_equally_often(count: int, readers: int, shards: Path) -> None:  # noqa: F811
    """Though one reader has two shards and the other one, or fewer images of each shard."""
    streams = in_training(find_shards(shards, "train-*.tar")[:count], readers, samples=16)
    seen = Counter(name for _ in range(30) for stream in streams for name in names(stream))
    assert len(seen) == 8 * count
    assert max(seen.values()) < 1.35 * min(seen.values())


def test_no_reader_is_without_images(shards: Path) -> None:  # noqa: F811
    """Of more readers than images, and of two readers if one of two shards cannot be read."""
    paths = find_shards(shards, "train-*.tar")[:2]
    found = [names(stream) for stream in in_training(paths, readers=20, samples=1)]
    assert [len(own) for own in found] == [1] * 20
    assert len({n for own in found for n in own}) == 16
    Path(paths[0]).write_bytes(b"torn")
    for stream in in_training(paths, readers=2, samples=8):
        assert {*names(stream)} == {f"{paths[1]}/photos/{8 + i:06d}" for i in range(8)}
