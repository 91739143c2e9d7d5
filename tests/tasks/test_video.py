"""Videos and cameras in, videos out."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from tasks import load, predict
from tasks.engine.config import load_config
from tasks.inference import video
from tasks.inference.video import Reader, Source, Writer, video_source
from tests.conftest import ROOT

FILES = ROOT / "tests" / "fixtures" / "0.2.0"
RUN = "runs/classification/tiny"
MODELS = {"checkpoint": RUN, "export": f"{RUN}/export/classification-0.05-32-onnx"}
RATE = Fraction(30000, 1001)  # NTSC's, which is no whole number
av = pytest.importorskip("av")


def write(path: Path, pictures: list[Image.Image], rate: Fraction = RATE, codec: str = "libx264", **more: Any) -> Path:
    """A video with one picture per frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


def colour(name: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    with Image.open(FILES / "data" / "val" / name / "0.jpg") as image:
        return image.resize(size)


def read(path: Path) -> tuple[list[np.ndarray], float, float]:
    """A video's frames (H, W, 3), frames a second, and seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate), container.duration / av.time_base


def run(tmp_path: Path, model: str = "checkpoint", **settings: object) -> list[dict[str, Any]]:
    """The lines that predict writes."""
    output = tmp_path / "out"
    given = {"ckpt": FILES / MODELS[model], "output": output, **settings}
    predict.predict(load_config([f"{key}={value}" for key, value in given.items()], "predict"))
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten red frames, then ten blue ones."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mkv", [colour("red")] * 10 + [colour("blue")] * 10)


@pytest.mark.parametrize("model", MODELS)
def test_a_video_becomes_a_video(model: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(tmp_path, model, input=clip)
    assert [line["frame"] for line in lines] == list(range(20))
    before, _, _ = read(clip)
    for line, result in zip(lines, load(FILES / MODELS[model]).predict(before), strict=True):
        assert {**line, **result.to_dict()} == line
    assert lines[0]["classes"] != lines[10]["classes"]
    assert [line["seconds"] for line in lines] == pytest.approx([i / float(RATE) for i in range(20)], abs=2e-3)
    frames, rate, seconds = read(tmp_path / "out" / "clip.mp4")
    assert len(frames) == 20
    assert rate == pytest.approx(float(RATE), rel=2e-3)
    assert seconds == pytest.approx(20 / float(RATE), rel=0.02)
    changed = [np.abs(a.astype(int) - b).max(axis=2) > 60 for a, b in zip(frames, before, strict=True)]
    assert all(c[:12].any() for c in changed)  # the answer, at the top
    assert all(c[-12:].any() for c in changed[1:])  # the rate, at the bottom
    assert "20 frames, 20 of them predicted, " in capsys.readouterr().out


def test_every_so_manieth_frame_is_answered(clip: Path, tmp_path: Path) -> None:
    lines = run(tmp_path, input=clip, every=6)
    assert [line["frame"] for line in lines] == [0, 6, 12, 18]
    frames, _, _ = read(tmp_path / "out" / "clip.mp4")
    assert len(frames) == 20
    bars = [frame[2:10, :40].astype(int) for frame in frames]  # where the answer is drawn
    apart = [np.abs(a - b).max() for a, b in pairwise(bars)]
    assert max(apart[6:11]) < 60  # the picture turns from red to blue, and the answer stays
    assert apart[11] > 60


def test_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in device of FFmpeg's, 12 frames a second for one second."""
    monkeypatch.setitem(video.CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate=12:duration={}"))
    lines = run(tmp_path, input="camera:1", every=4)
    assert [line["frame"] for line in lines] == [0, 4, 8]
    frames, rate, _ = read(tmp_path / "out" / "camera.mp4")
    assert (len(frames), rate) == (12, 12)


def test_what_names_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert video_source("camera") == Source("/dev/video0", "v4l2")
    assert video_source("camera:2") == Source("/dev/video2", "v4l2")
    assert video_source("/dev/video1") == Source("/dev/video1", "v4l2")
    assert video_source("photos/*.jpg") is None
    assert video_source(None) is None


def test_a_stopped_video_can_be_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at a camera that would never end."""
    monkeypatch.setitem(video.CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate=10"))
    frames = Reader.frames

    def interrupted(self: Reader) -> Iterator[video.Frame]:
        for number, frame in enumerate(frames(self)):
            if number == 7:
                os.kill(os.getpid(), signal.SIGINT)
            yield frame

    monkeypatch.setattr(Reader, "frames", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert len(run(tmp_path, input="camera")) == 8
    assert signal.getsignal(signal.SIGINT) is before
    assert len(read(tmp_path / "out" / "camera.mp4")[0]) == 8


def test_odd_sides_and_damage(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 66, 3), dtype=np.uint8)
    odd = write(tmp_path / "odd.avi", list(map(Image.fromarray, noise)), codec="mpeg4")
    content = bytearray(odd.read_bytes())
    odd.write_bytes(content[: len(content) * 2 // 3])  # truncated
    lines = run(tmp_path, input=odd)
    assert 5 < len(lines) < 30
    assert len(read(tmp_path / "out" / "odd.mp4")[0]) == len(lines)
    writer = Writer(tmp_path / "cut.mp4", Fraction(10))
    writer.write(Image.new("RGB", (31, 21)), 0)
    writer.close()
    assert read(tmp_path / "cut.mp4")[0][0].shape == (20, 30, 3)


def test_errors_of_one_line(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")  # would open another file
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (
        ("absent.mp4", "there is no such file"),
        ("text.mp4", "it is not a video"),
        ("list.mp4", "it is not a video"),
        ("pipe.mp4", "not a regular file"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            run(tmp_path, input=tmp_path / name)
        assert "\n" not in str(raised.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # so that undo() restores it
    with pytest.raises(UserError, match="more pixels than max_pixels=1000 allows"):
        run(tmp_path, input=clip, max_pixels=1000)
    monkeypatch.undo()
    with pytest.raises(UserError, match="every=3 is for videos"):
        run(tmp_path, input=FILES / "data", every=3)
    copied = write(tmp_path / "same.mp4", [colour("red")])
    with pytest.raises(UserError, match="would overwrite"):
        run(tmp_path, input=copied, output=tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="need PyAV: pip install"):
        run(tmp_path, input=clip)


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    """As a phone held upright writes it: frames are stored sideways, and the track's matrix turns them clockwise."""
    picture = Image.new("RGB", (64, 48), "blue")
    picture.paste("red", (0, 0, 32, 48))
    path = write(tmp_path / "turned.mp4", [picture] * 3)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2: 40 bytes of other fields come first
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30]
    content[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)
    reader = Reader(Source(str(path)))
    pixels = next(reader.frames()).pixels
    reader.close()
    assert pixels.shape == (64, 48, 3)
    assert pixels[5, 24, 0] > 200  # red above
    assert pixels[60, 24, 2] > 200
