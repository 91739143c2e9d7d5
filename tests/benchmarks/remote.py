"""python -m tests.benchmarks.remote: images a second from shards in an object store against those on disk, on one core.

moto's S3 server, a process of its own beside the reader; JPEGs of 500 x 375 of tests.benchmarks.input, cropped to 224.
Each turn reads all shards once: as a stream, and from the cached copy. The server's work is on the same cores.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from data.shards.classification import ShardClassificationData
from tests.benchmarks.input import make_images
from tests.benchmarks.timing import machine, seconds

SHARDS, IMAGES, ROUNDS = 4, 200, 3


def write_shards(root: Path) -> None:
    images = [path.read_bytes() for path in sorted((root / "images").rglob("*.jpg"))]
    for shard in range(SHARDS):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for i in range(IMAGES):
                for kind, content in (("jpg", images[i % len(images)]), ("cls", b"%d" % (i % 2))):
                    info = tarfile.TarInfo(f"{i:06d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def reader(root: Path, where: str, cache_gb: float) -> Callable[[], object]:
    given = {"train": f"{where}{{0..{SHARDS - 1}}}.tar", "val": f"{where}0.tar", "classes": "classes.txt"}
    data = ShardClassificationData(
        str(root), 224, **given, train_count=SHARDS * IMAGES, shuffle=0, cache_gb=cache_gb, batch_size=64, workers=0
    )
    loader = data.train_dataloader()
    return lambda: sum(len(batch.images) for batch in loader)


def main() -> None:
    import s3fs

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_images(root / "images", quality=90)
        write_shards(root)
        (root / "classes.txt").write_text("cat\ndog\n")
        command = [sys.executable, "-m", "moto.server", "-p", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            address = next(found[0] for line in server.stderr or () if (found := re.search(r"http://\S+", line)))
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
            os.environ["XDG_CACHE_HOME"] = str(root / "cache")
            store = s3fs.S3FileSystem()
            store.mkdir("bucket")
            for path in root.glob("*.tar"):
                store.put(str(path), f"s3://bucket/{path.name}")
            ways = {
                "on disk": reader(root, "", 0),
                "streamed": reader(root, "s3://bucket/", 0),
                "kept": reader(root, "s3://bucket/", 1),
            }
            took = seconds(ways, rounds=ROUNDS, warmup=1)
            server.terminate()
    print(machine())
    for name, time in took.items():
        print(f"{name:10} {SHARDS * IMAGES / time:7.0f} images/s  {took['on disk'] / time:5.0%} of those on disk")


if __name__ == "__main__":
    main()
