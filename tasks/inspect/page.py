"""The report on a data set as one static page, with pictures."""

import html
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backbones.console import plain
from backbones.files import atomic_write
from data.image_file import BadImage, read_pixels
from tasks.detection.results import COLOURS, LONGEST
from tasks.engine.drawing import data_url
from tasks.inspect.contents import Contents
from tasks.inspect.figures import by_split, formats, histograms, per_class, sizes
from tasks.inspect.findings import Box, Example, Finding
from tasks.inspect.survey import Survey

SIDE = 480  # pixels of a picture's longer side
SHOWN, ODDEST, USUAL = 8, 12, 24  # pictures of a finding, of the oddest images, of classes
WORDS = 100  # lines of a finding without pictures
CLASSES = 200  # rows of the table of classes
MARK = "#ff2020"


def write_page(survey: Survey, root: Path, description: str, path: Path) -> None:
    """Writes the page, a single file; `description` is the task and format of the data in `root`, in words."""
    pictures = Pictures(survey.contents, root)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    content = "\n".join(_sections(survey, pictures, root, description))
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(template.replace("{{content}}", content))


def text(words: object) -> str:
    """Text, which may come from a file, as HTML."""
    return html.escape(plain(str(words)))


def _sections(survey: Survey, pictures: "Pictures", root: Path, description: str) -> Iterator[str]:
    faults = sum(f.fault for f in survey.findings)
    yield f"<h1>{text(root.resolve().name)}</h1>"
    images = len(set(survey.contents.paths))
    kinds = f"kinds of faults: {faults}" if faults else "no faults"
    yield f"<p class=muted>{text(description)} · {images:,} images · {kinds} · {time.strftime('%Y-%m-%d')}</p>"
    if survey.decoded < images:
        words = f"Only {survey.decoded:,} images were decoded and checked for faults of pixels and near-duplicates."
        yield f"<p class=muted>{words}</p>"
    yield f"<section><h2>At a glance</h2>{_glance(survey)}</section>"
    if survey.advice:
        items = "".join(
            f"<li>{f'<code>{text(a.settings)}</code> ' if a.settings else ''}{text(a.why)}</li>" for a in survey.advice
        )
        yield f"<section><h2>Advice</h2><ul>{items}</ul></section>"
    if odd := oddest(survey.findings):
        figures = "".join(map(pictures.figure, odd))
        yield f"<section><h2>Images with the most faults</h2><div class=pictures>{figures}</div></section>"
    for finding in survey.findings:
        yield _finding(finding, pictures)
    if usual := typical(survey.contents):
        figures = "".join(map(pictures.figure, usual))
        yield f"<section><h2>Sample images</h2><div class=pictures>{figures}</div></section>"


def _glance(survey: Survey) -> str:
    contents = survey.contents
    parts = [_table(["", *contents.splits, *contents.same], ([name, *row] for name, row in by_split(survey)))]
    parts.append(f"<p class=muted>{text(formats(survey))}</p><p class=muted>{text(sizes(survey))}</p>")
    charts = [f"<div><h3>{text(h.title)}</h3>{_bars(h.bars)}</div>" for h in histograms(survey)]
    parts.append(f"<div class=columns>{''.join(charts)}</div>")
    if rows := per_class(survey)[:CLASSES]:
        cells = ([name, *(f"{n:,}" for n in counts)] for name, counts in rows)
        parts.append(f"<div class=scroll>{_table(['class', *contents.splits], cells)}</div>")
    return "".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{text(h)}</th>" for h in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _bars(bars: Sequence[tuple[str, int]]) -> str:
    most = max(count for _, count in bars)
    rows = (
        f"<span>{text(name)}</span><i style='width:{100 * count / most:.1f}%'></i><span>{count:,}</span>"
        for name, count in bars
    )
    return f"<div class=bars>{''.join(rows)}</div>"


def _finding(finding: Finding, pictures: "Pictures") -> str:
    style = "fault" if finding.fault else "muted"
    parts = [f"<h2>{text(finding.title)}: <span class={style}>{finding.count:,}</span></h2>"]
    parts.append(f"<p class=muted>{text(finding.hint)}</p>")
    shown = [e for e in finding.examples if e.path][:SHOWN]
    words = [e.words for e in finding.examples if not e.path][:WORDS]
    if shown:
        parts.append(f"<div class=pictures>{''.join(map(pictures.figure, shown))}</div>")
    if words:
        parts.append(f"<ul>{''.join(f'<li>{text(w)}</li>' for w in words)}</ul>")
    return f"<section>{''.join(parts)}</section>"


def oddest(findings: Sequence[Finding]) -> list[Example]:
    """The images with the most kinds of faults, at least two, each with all its findings."""
    faults: dict[Path, list[tuple[Finding, Example]]] = {}
    for finding in findings:
        for example in finding.examples:
            if example.path:
                faults.setdefault(example.path, []).append((finding, example))
    kinds = {path: len({f.kind for f, _ in own if f.fault}) for path, own in faults.items()}
    chosen = sorted((p for p in faults if kinds[p] > 1), key=lambda p: (-kinds[p], -len(faults[p])))[:ODDEST]
    return [
        Example(
            path,
            "; ".join(dict.fromkeys(e.words for _, e in faults[path] if e.words)),
            tuple(dict.fromkeys(box for _, e in faults[path] for box in e.boxes)),
        )
        for path in chosen
    ]


def typical(contents: Contents) -> list[Example]:
    """The first images of each class in turn."""
    order = np.lexsort((contents.row, contents.label))
    turns: Counter[int] = Counter()
    ranked = []
    for k in order[: 50 * USUAL * max(1, len(contents.names))]:
        label = int(contents.label[k])
        ranked.append((turns[label], label, int(contents.row[k])))
        turns[label] += 1
    rows = dict.fromkeys(row for *_, row in sorted(ranked))
    return [Example(contents.paths[i]) for i in list(rows)[:USUAL]]


class Pictures:
    """Images with their labels drawn, as HTML."""

    def __init__(self, contents: Contents, root: Path) -> None:
        self.contents, self.root = contents, root
        self.first = {path: i for i, path in reversed(list(enumerate(contents.paths)))}
        self.address = cache(self._address)

    def figure(self, example: Example) -> str:
        """A picture with its name and a description of the finding."""
        assert example.path
        shown = "".join(
            f"<img src='{address}' alt=''>" if address else "<div class=none>not readable</div>"
            for address in (self.address(p, example.boxes) for p in (example.path, example.other) if p)
        )
        names = " and ".join(text(self.name(p)) for p in (example.path, example.other) if p)
        labels = self.labels(example.path) if self.contents.boxes is None else ""
        lines = [text(line) for line in (example.words, labels) if line]
        return f"<figure>{shown}<figcaption>{'<br>'.join(lines)}<span class=muted>{names}</span></figcaption></figure>"

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def labels(self, path: Path) -> str:
        """Names of an image's labels, if it is in a split."""
        if path not in self.first:
            return ""
        own = self.contents.label[self.contents.labels_of(self.first[path])]
        return ", ".join(self.contents.names[k] for k in own)

    def _address(self, path: Path, marked: tuple[Box, ...]) -> str | None:
        """The picture as a data URL; None if the file cannot be read."""
        try:
            pixels, (height, width) = read_pixels(path, SIDE)
        except BadImage:
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        if self.contents.boxes is not None:
            self.draw(image, path, marked, (image.width / width, image.height / height))
        return data_url(image)

    def draw(self, image: Image.Image, path: Path, marked: tuple[Box, ...], scale: tuple[float, float]) -> None:
        """Draws an image's boxes, and the marked ones."""
        canvas, font = ImageDraw.Draw(image), ImageFont.load_default(12)
        if path in self.first:
            assert self.contents.boxes is not None
            for k in self.contents.labels_of(self.first[path]):
                corners = _scaled(self.contents.boxes[k].tolist(), scale, image.size)
                label = int(self.contents.label[k])
                colour = COLOURS[label % len(COLOURS)]
                canvas.rectangle(corners, outline=colour, width=2)
                corner, words = (corners[0] + 3, corners[1] + 3), plain(self.contents.names[label])[:LONGEST]
                canvas.rectangle(canvas.textbbox(corner, words, font), fill=colour)
                canvas.text(corner, words, "white", font)
        for box in marked:
            if np.isfinite(box).all():
                canvas.rectangle(_scaled(box, scale, image.size), outline=MARK, width=4)


def _scaled(box: Sequence[float], scale: tuple[float, float], size: tuple[int, int]) -> tuple[float, ...]:
    """A box in pixels of a scaled picture, clipped to it, with its corners in order."""
    xs = sorted(min(max(box[i] * scale[0], 0), size[0] - 1) for i in (0, 2))
    ys = sorted(min(max(box[i] * scale[1], 0), size[1] - 1) for i in (1, 3))
    return xs[0], ys[0], xs[1], ys[1]
