"""Shards: who reads what, from where, and errors for damaged ones."""

import io
import lzma
import random
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import UserError
from data.image_file import SALVAGED
from data.shards.classification import ShardClassificationData
from data.shards.stream import ShardStream
from data.tar import BadShard, ShardSample, expand, find_shards, read_member, read_samples
from tasks.engine.checkpoint import load_checkpoint
from tasks.run import execute

PER_SHARD, CLASSES = 8, ("cat", "dog", "fox")
TINY = ("backbone.alpha=0.25", "task.resolution=32", "data.batch_size=4", "trainer.max_epochs=1", "trainer.log_every=1")


def write_shard(path: Path, samples: list[dict[str, bytes]], start: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, files in enumerate(samples, start):
            for kind, content in files.items():
                member = tarfile.TarInfo(f"./photos/{number:06d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def image(shade: int, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(shade).integers(0, 255, (size, size, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four shards of training images and one of validation, with class numbers."""
    for shard in range(5):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        samples = [{"JPG": image(n), "cls": str(n % 3).encode()} for n in numbers]
        name = f"train-{shard:03d}.tar" if shard < 4 else "val-000.tar"
        write_shard(tmp_path / name, samples, start=numbers.start)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def data(root: Path, **settings: Any) -> ShardClassificationData:
    names = {"train": "train-*.tar", "val": "val-*.tar", "train_count": None, "shuffle": 5, "cache_gb": 0, "workers": 0}
    return ShardClassificationData(str(root), 32, **{**names, "batch_size": 4, **settings})


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_truncated_image_in_a_shard_is_salvaged(tmp_path: Path) -> None:
    content = image(0, size=200)
    for split in ("train", "val"):
        write_shard(tmp_path / f"{split}-0.tar", [{"jpg": content[:-20], "cls": b"0"}, {"jpg": content, "cls": b"1"}])
    (batch,) = data(tmp_path).val_dataloader()
    assert batch.bad == [(f"{tmp_path}/val-0.tar/photos/000000", SALVAGED)]
    assert batch.images.shape[0] == 2


# --- which shards, and whose -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["a{008..011}.tar", "{x,y}/b{1..3}", "plain.tar one{a,b}", "{0..1}{0..1}", "{10..08}"]
)
def test_patterns_mean_what_the_shell_means(pattern: str) -> None:
    wanted = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expand(pattern) == wanted.stdout.split()


def name(record: Any) -> dict[str, str]:
    return {"name": record.name}


def test_an_epoch_depends_on_seed_and_number_alone(shards: Path) -> None:
    """In persistent loader processes, and in those started later, as after a resume."""
    found = data(shards, workers=2, batch_size=3)
    loader = found.train_dataloader()
    epochs = [list(loader) for _ in range(3)]
    resumed = data(shards, workers=2, batch_size=3)
    resumed.epoch = 2
    for ours, theirs in zip(resumed.train_dataloader(), epochs[2], strict=True):
        assert ours.paths == theirs.paths
        assert torch.equal(ours.images, theirs.images)
    assert [b.paths for b in epochs[0]] != [b.paths for b in epochs[1]]


@pytest.mark.parametrize("workers", [0, 1, 3, 5])
def test_an_epoch_that_goes_on_leaves_out_what_was_given(workers: int, shards: Path) -> None:
    """Loader processes, fewer or more than shards, deliver batches in turns; the one whose turn is next starts."""
    whole, resumed = (data(shards, workers=workers, batch_size=2) for _ in range(2))
    loader = whole.train_dataloader()
    epochs = [list(loader) for _ in range(3)]
    for given in (1, 4):
        resumed.epoch, resumed.batches_done = 1, given
        loader = resumed.train_dataloader()
        for number, start in ((1, given), (2, 0)):
            for ours, theirs in zip(loader, epochs[number][start:], strict=True):
                assert ours.paths == theirs.paths
                assert torch.equal(ours.images, theirs.images)


def test_an_epoch_is_as_long_as_it_says(shards: Path) -> None:
    found = data(shards, workers=2, batch_size=3)
    loader = found.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 10  # of 32 images two readers give five batches of three each
    assert found.train_batches(1) == 10
    few = data(shards, workers=3, batch_size=16)
    assert len(few.train_dataloader()) == few.train_batches(1) == 3  # a batch from each reader
    assert found.labels == ["0", "1", "2"]
    for batch in [*batches, *found.val_dataloader()]:
        assert batch.labels.tolist() == [int(p[-6:]) % 3 for p in batch.paths]
    assert sum(len(batch.labels) for batch in found.val_dataloader()) == PER_SHARD


def test_names_with_brackets_are_no_patterns(shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "[a]"
    root.mkdir()
    for name in ("x[1].tar", "x1.tar"):
        shutil.copy(shards / "val-000.tar", root / name)
    assert find_shards(root, "x[1].tar") == [str(root / "x[1].tar")]
    assert find_shards(root, "x*.tar") == [str(root / "x1.tar"), str(root / "x[1].tar")]


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A sparse member: 1 TB of zeros in a kilobyte."""
    member = tarfile.TarInfo("a.jpg")
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(BadShard, match="has 1099511627776 bytes"):
        list(read_samples(str(tmp_path / "a.tar")))


@pytest.mark.parametrize("pax", [False, True])
def test_a_member_that_leads_back_to_the_first(pax: bool, tmp_path: Path) -> None:
    """A negative size, which tarfile reads from either of two places, would make the shard endless."""
    first, second = tarfile.TarInfo("a.jpg"), tarfile.TarInfo("b.jpg")
    headers = {"size": "-2560"} if pax else {}
    first.size, second.size = 512, 0 if pax else -1536
    second.pax_headers = headers
    parts = first.tobuf(), bytes(512), second.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    with pytest.raises(BadShard, match=r"-\d+ bytes"):
        list(islice(read_samples(str(tmp_path / "a.tar")), 10))
    assert read_member(tmp_path / "a.tar" / "a.jpg") == bytes(512)


def test_a_sample_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because of many files that are each small enough; files that nobody reads count only with their headers."""
    monkeypatch.setattr("data.tar.MAX_FILE", 4000)
    write_shard(
        tmp_path / "a.tar", [{"jpg": bytes(2000), "mp4": bytes(3000)}, {"jpg": bytes(2000), "png": bytes(2000)}]
    )
    records = read_samples(str(tmp_path / "a.tar"), lambda kind: kind != "mp4")
    assert next(records).files["jpg"] == bytes(2000)
    with pytest.raises(BadShard, match="files of photos/000001 have more than 4000 bytes"):
        next(records)


def test_what_waits_to_be_shuffled_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large samples after small ones, which fill the buffer by their number."""
    sizes = [1] * 50 + [100] * 50 + [5000] + [1] * 50
    records = [ShardSample(str(i), {"jpg": bytes(size)}) for i, size in enumerate(sizes)]
    read: list[ShardSample] = []

    def reading() -> Iterator[ShardSample]:
        for record in records:
            read.append(record)
            yield record

    monkeypatch.setattr("data.shards.stream.MOST_WAITING", 1000)
    given = []
    for record in ShardStream([], name, shuffle=20)._shuffled(reading()):
        given.append(record)
        assert len(read) - len(given) <= 20
        assert sum(r.size for r in read) - sum(r.size for r in given) <= 1000 + read[-1].size
    assert sorted(int(record.name) for record in given) == list(range(len(sizes)))
    assert given != records


def test_no_more_is_read_of_a_sample_than_a_task_wants(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [{"jpg": image(0), "cls": b"0", "mp4": bytes(3000)}])
    (record,) = ShardStream([str(tmp_path / "a.tar")], name)._raw_samples(0, 0, 1, [])
    assert record.files["mp4"] == b""
    assert record.files["cls"] == b"0"


def test_a_compressed_shard_that_is_damaged(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [{"txt": bytes(random.Random(0).choices(range(99), k=200_000))}])
    content = bytearray(lzma.compress((tmp_path / "a.tar").read_bytes()))
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadShard, match="cannot be read to its end") as error:
        list(read_samples(str(tmp_path / "a.tar")))
    assert "\n" not in str(error.value)


# --- what is not whole -----------------------------------------------------------------------------------


def test_a_shard_cut_off_gives_what_is_before_and_is_counted(shards: Path) -> None:
    cut(shards / "train-003.tar")
    whole = ShardStream(find_shards(shards, "train-*.tar"), name)
    samples = list(whole)
    assert 3 * PER_SHARD < len(samples) < 4 * PER_SHARD
    (problem,) = [p for s in samples for p in s["bad"]]
    assert problem == (f"{shards}/train-003.tar", "the shard cannot be read to its end: unexpected end of data")
    whole_images = {s["name"] for s in samples if "train-003" in s["name"]}
    assert whole_images == {f"{shards}/train-003.tar/photos/{24 + i:06d}" for i in range(len(whole_images))}


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 99])
def test_a_file_that_is_no_shard(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadShard, match="the shard cannot be read to its end") as error:
        list(read_samples(str(tmp_path / "a.tar")))
    assert "\n" not in str(error.value.args[1])


def test_samples_that_are_not_whole_are_named(shards: Path) -> None:
    samples = [{"jpg": image(0), "json": b'{"label": 2}'}, {"cls": b"0"}, {"jpg": b"torn", "cls": b"0"}]
    samples += [{"jpg": image(1)}, {"jpg": image(2), "cls": b"wolf"}, {"jpg": image(3), "json": b"["}]
    write_shard(shards / "val-000.tar", samples)
    (batch,) = data(shards).val_dataloader()
    assert batch.labels.tolist() == [2]
    reasons = [reason.split(" '")[0] for _, reason in batch.bad]
    unlabelled = "neither .cls nor a label in .json"
    assert [r if "image of a known" not in r else "torn" for r in reasons] == [
        *("no image among its files (cls)", "torn", unlabelled, "there is no class wolf", unlabelled)
    ]


def test_names_that_are_numbers_and_numbers_that_are_indices(tmp_path: Path) -> None:
    """Classes called 1 to 3: a .cls file names them, a number in a .json is an index."""
    write_shard(tmp_path / "train-0.tar", [{"jpg": image(n), "cls": str(n % 3 + 1).encode()} for n in range(6)])
    write_shard(tmp_path / "val-0.tar", [{"jpg": image(n), "json": f'{{"label": {n % 3}}}'.encode()} for n in range(6)])
    (tmp_path / "classes.txt").write_text("1\n2\n3")
    for split in ("train", "val"):
        found = data(tmp_path, classes="classes.txt", min_scale=1.0)
        loader = found.train_dataloader() if split == "train" else found.val_dataloader()
        pairs = [(int(p[-6:]) % 3, label) for b in loader for p, label in zip(b.paths, b.labels.tolist(), strict=True)]
        assert pairs
        assert all(number == label for number, label in pairs)


def test_no_unreadable_image_means_none_of_a_stream(shards: Path) -> None:
    write_shard(shards / "val-000.tar", [{"jpg": b"torn", "cls": b"0"}, {"jpg": image(1), "cls": b"1"}])
    found = data(shards, max_bad=0.0)
    (batch,) = found.val_dataloader()
    with pytest.raises(UserError, match=r"more than data\.max_bad=0 allows"):
        found.record_bad_images(batch.bad, "val")


def prepared(root: Path, **settings: Any) -> ShardClassificationData:
    found = data(root, **settings)
    found.prepare()
    return found


def test_settings_that_do_not_fit(shards: Path) -> None:
    address = "http://localhost/{0..3}.tar"
    for settings, words in (
        ({"train": "none-{0..1}.tar"}, r"there is no shard .*none-0\.tar"),
        ({"val": "none.tar"}, r"there is no shard .*none\.tar"),
        ({"train": address}, "need data.classes="),
        ({"train": ""}, "data.train names no shard"),
        ({"classes": "none.txt"}, r"none\.txt cannot be read"),
        ({"train": "train-000.tar", "classes": "one.txt"}, "one.txt names 1 classes"),
    ):
        (shards / "one.txt").write_text("cat")
        with pytest.raises(UserError, match=words) as error:
            _ = prepared(shards, **settings).labels
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"set data\.views=0"):
        data(shards, views=2)
    with pytest.raises(UserError, match=r"need data\.train_count="):
        data(shards, train=address, classes="classes.txt").num_images("train")
    for path in shards.glob("train-*.tar"):
        write_shard(path, [{"jpg": b"torn", "cls": str(i).encode()} for i in range(4)])
    with pytest.raises(UserError, match=r"the 4 shards have no image that can be used for training: .*not an image"):
        next(iter(data(shards).train_dataloader()))


# --- the commands ----------------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; files below cut/ end half way, as with a broken connection."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/cut/", "/"))

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "/cut/" in self.path else content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shards))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_run_on_addresses_one_of_them_broken(
    shards: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = f"{server}/train-{{000..002}}.tar {server}/cut/train-003.tar {server}/none.tar"
    settings = [f"data.root={shards}", f"data.train={train}", f"data.val={server}/val-000.tar", "data.workers=2"]
    counts = ["data.classes=classes.txt", "data.train_count=32", "data.max_bad=0.1"]
    where = [f"paths.runs={tmp_path / 'runs'}", "name=tiny", "task=classification", "data=shards"]
    content = execute([*TINY, *settings, *counts, *where, "trainer.max_epochs=3"])
    assert (content["state"], content["step"]) == ("finished", 3 * 2 * (32 // 8))
    printed = " ".join(capsys.readouterr().out.split())
    assert "skipped 2 unreadable images of train, for example http" in printed
    labels = load_labels(tmp_path / "runs" / "classification" / "tiny")
    assert labels == list(CLASSES)


def load_labels(folder: Path) -> list[str]:
    return list(load_checkpoint(folder)["suite"]["labels"])


def test_a_teacher_is_asked_but_its_answers_are_not_kept(shards: Path, tmp_path: Path) -> None:
    where = ["task=classification", "data=shards", f"data.root={shards}", f"paths.runs={tmp_path / 'runs'}"]
    more = ["data.workers=0", "logger.images=0"]
    with pytest.raises(UserError, match=r"there is no shard .*/x-0\.tar"):
        execute([*TINY, *where, *more, "data.train=x-{0..3}.tar"])
    execute([*TINY, *where, *more, "name=teacher"])
    taught = [*TINY, *where, *more, f"teacher={tmp_path / 'runs' / 'classification' / 'teacher'}"]
    assert execute([*taught, "name=student"])["state"] == "finished"
    with pytest.raises(UserError, match=r"does not work with streams of images: set distill\.cache=null"):
        execute([*taught, f"distill.cache={tmp_path / 'cache'}"])
