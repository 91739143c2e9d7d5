"""Videos and cameras: the model runs on their frames one by one, and a video is written, in bounded memory.

PyAV (FFmpeg), an optional package, reads and writes them. Only FFmpeg's demuxers for video files are allowed: others,
such as those for playlists, would open the files that a file names.
"""

import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backbones.errors import UserError
from backbones.files import check_regular
from data.image_file import BadImage, Pixels, check_pixels
from tasks.engine.results import Result
from tasks.inference.predictor import Predictor

if TYPE_CHECKING:
    import av.container

log = logging.getLogger(__name__)

SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".3gp", ".wmv"}
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegvideo,mpegts,asf"
# FFmpeg's format and the name of a camera
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
TICKS = 60_000  # per second, in written videos: codecs allow it, and frames of the usual rates last a whole number
RECENT = 30  # frames over which the displayed frame rate is measured


class Source(NamedTuple):
    """A video file, or a camera: FFmpeg's `format` and its name for it."""

    name: str
    format: str | None = None

    @property
    def stem(self) -> str:
        """The name of the written video, without suffix."""
        return "camera" if self.format else Path(self.name).stem


class Frame(NamedTuple):
    pixels: Pixels  # RGB (H, W, 3), upright
    seconds: float  # since the first


def video_source(wanted: str | None) -> Source | None:
    """The video that `input` names: a file by its suffix, `camera`, `camera:1` or /dev/video1. None for anything else.

    Raises:
        UserError: there is no such file, or cameras are not supported on this system.
    """
    text = wanted or ""
    if text == "camera" or text.startswith("camera:"):
        if sys.platform not in CAMERAS:
            raise UserError(f"input={text}: cameras of this system are not known")
        format, name = CAMERAS[sys.platform]
        return Source(name.format(text.partition(":")[2] or "0"), format)
    if text.startswith("/dev/video"):
        return Source(text, "v4l2")
    if Path(text).suffix.lower() not in SUFFIXES:
        return None
    if not Path(text).exists():
        raise UserError(f"input={text}: there is no such file")
    return Source(text)


def load_av() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av

        return av
    except ImportError as error:
        raise UserError("videos and cameras need PyAV: pip install -e '.[video]'") from error


class Reader:
    """The frames of a video, upright and of one size; close it after use.

    Raises:
        UserError: it cannot be opened, has no pictures, or its pictures have more pixels than allowed.
    """

    def __init__(self, source: Source) -> None:
        self.av, self.source = load_av(), source
        try:
            if source.format:
                self.container = self.av.open(source.name, format=source.format)
            else:
                check_regular(Path(source.name), most=None)
                options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
                self.container = self.av.open(source.name, options=options)
        except (OSError, ValueError) as error:  # FFmpeg's errors derive from these
            reason = error.strerror if isinstance(error, OSError) else "it is not a video of a known format"
            raise UserError(f"input={source.name} cannot be opened: {reason or error}") from error
        if not self.container.streams.video:
            self.container.close()
            raise UserError(f"input={source.name} has no frames")
        self.stream = self.container.streams.video[0]
        self._check(self.stream.width, self.stream.height)
        self.stream.thread_type = "AUTO"
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.count = int(self.stream.frames) or None  # as the file says, which may be wrong
        self.damaged = 0  # packets that could not be decoded

    def _check(self, width: int, height: int) -> None:
        try:
            check_pixels(Path(self.source.name), width, height)
        except BadImage as error:
            raise UserError("input={}: {}".format(*error.args)) from error

    def frames(self) -> Iterator[Frame]:
        """All frames that can be decoded."""
        first, last, size = None, -1.0, None
        for frame in self._decoded():
            self._check(frame.width, frame.height)
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            size = size or pixels.shape[1::-1]
            if pixels.shape[1::-1] != size:
                pixels = np.asarray(Image.fromarray(pixels).resize(size))
            first = frame.time if first is None else first
            seconds = last + float(1 / self.rate) if frame.time is None else frame.time - first
            last = max(seconds, last + 1 / TICKS) if last >= 0 else 0.0
            yield Frame(np.ascontiguousarray(pixels), last)

    def _decoded(self) -> Iterator[Any]:
        for packet in self._packets():
            try:
                yield from packet.decode()
            except (OSError, ValueError):
                self.damaged += 1

    def _packets(self) -> Iterator[Any]:
        while True:
            try:
                yield from self.container.demux(self.stream)
                return
            except BlockingIOError:  # a camera that has no picture yet
                time.sleep(0.005)
            except (OSError, ValueError):  # the file is damaged
                self.damaged += 1
                return

    def close(self) -> None:
        self.container.close()


class Writer:
    """An MP4 file of frames of one size, playable once it is closed; frames are cropped to even sides."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.av, self.path, self.rate = load_av(), path, rate
        self.container: av.container.OutputContainer = self.av.open(str(path), "w", format="mp4")
        self.stream: Any = None

    def write(self, image: Image.Image, seconds: float) -> None:
        width, height = max(2, image.width // 2 * 2), max(2, image.height // 2 * 2)
        if self.stream is None:
            codec = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=self.rate)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            self.stream.codec_context.time_base = Fraction(1, TICKS)
        cut = image.crop((0, 0, width, height))
        frame = self.av.VideoFrame.from_ndarray(np.asarray(cut), format="rgb24")
        frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


class AnnotatedFrame(NamedTuple):
    """A frame with the latest result drawn on it; `result` is None if that is an earlier frame's."""

    number: int
    seconds: float
    image: Image.Image
    result: Result | None


def annotated_frames(model: Predictor, frames: Iterator[Frame], every: int) -> Iterator[AnnotatedFrame]:
    """Each frame with the latest result and the frame rate drawn on it; the model runs on every `every`-th frame."""
    last: Result | None = None
    times: deque[float] = deque(maxlen=RECENT)
    for number, frame in enumerate(frames):
        times.append(time.monotonic())
        result = next(model.predict(frame.pixels)) if number % every == 0 else None
        last = result or last
        assert last
        image = last.annotate(Image.fromarray(frame.pixels))
        if len(times) > 1:
            rate = (len(times) - 1) / max(1e-9, times[-1] - times[0])
            image = with_rate(image, f"{rate:.1f} frames/s")
        yield AnnotatedFrame(number, frame.seconds, image, result)


def with_rate(image: Image.Image, words: str) -> Image.Image:
    """The image with words in its lower left corner."""
    canvas = image.copy()
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(10, image.height // 30))
    box = draw.textbbox((6, image.height - 6), words, font, anchor="lb")
    draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill="black")
    draw.text((6, image.height - 6), words, "white", font, anchor="lb")
    return canvas


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that is empty until SIGINT or SIGTERM arrives, so that the caller can complete its output. A second
    signal ends the process at once.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        came.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
