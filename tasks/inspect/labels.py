"""Checks labels: boxes that cannot be right, images without labels."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks.inspect.contents import Contents, Flags
from tasks.inspect.files import FileInfo
from tasks.inspect.findings import Box, Example, Finding, finding

OVER = 2.0  # pixels by which a box may exceed its image, because tools count pixels differently
SAME = 1.0  # pixels by which two boxes of one object may differ


def findings(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    if contents.boxes is not None:
        yield from _dropped(contents)
        yield from _sizes(contents, infos)
        yield from _over(contents, infos)
        yield from _twice(contents)
        hint = "they are not trained on and do not count in the metrics"
        yield from _flagged(contents, contents.crowd, "crowd", "regions of crowds", hint)
        hint = "do not count in the metrics"
        yield from _flagged(contents, contents.difficult, "difficult", "objects that are marked difficult", hint)
    if contents.names:
        yield from _empty(contents)
    # the readers' warnings, except those on boxes, which are reported above
    words = [w for w in contents.warnings if ": dropped " not in w]
    hint = "correct them; their labels are not used"
    yield from finding("warnings", "warnings of the reader", [Example(None, w) for w in words], hint)


def _dropped(contents: Contents) -> Iterator[Finding]:
    """Boxes that the reader left out, by reason."""
    notes = contents.notes
    for reason, count in sorted(notes.dropped.items()):
        found: dict[Path, list[Box]] = {}
        for path, why, box in notes.boxes:
            if why == reason:
                found.setdefault(path, []).append(box)
        examples = [Example(path, _corners(boxes[0]), tuple(boxes)) for path, boxes in found.items()]
        hint = "correct or remove them; they are not used"
        yield from finding(reason, f"boxes {reason}", examples, hint, count=count)


def _corners(box: Box) -> str:
    return "box " + " ".join(f"{v:.5g}" for v in box)


def _sizes(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    """Annotated sizes that differ from the upright image's."""
    examples = []
    for path, s in dict(zip(contents.paths, infos, strict=True)).items():
        wide, high = contents.notes.sizes.get(path, (0, 0))
        if not s.problem and min(wide, high) > 0 and (wide, high) != (s.width, s.height):
            examples.append(Example(path, f"{wide:g} x {high:g} annotated, {s.width} x {s.height} found"))
    hint = "the image was resized or rotated after it was labelled: its boxes do not fit"
    yield from finding("size", "images whose size differs from the annotated one", examples, hint)


def _over(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    """Boxes that are partly outside of their images."""
    assert contents.boxes is not None
    sizes = np.array([(s.width, s.height) for s in infos], np.float64).reshape(-1, 2)[contents.row]
    known = (sizes > 0).all(axis=1)
    over = np.maximum(-contents.boxes[:, :2], contents.boxes[:, 2:] - sizes).max(axis=1, initial=0)
    examples = _examples(contents, known & (over > OVER), lambda k: f"{over[k]:.0f} pixels over the edge")
    title = f"boxes over {OVER:g} pixels outside their image"
    yield from finding("over", title, examples, "they are clipped to the image", False)


def _twice(contents: Contents) -> Iterator[Finding]:
    """Boxes of an image that are the same."""
    assert contents.boxes is not None
    cells = np.round(contents.boxes / SAME).astype(np.int64)
    order = np.lexsort((contents.label, *cells.T, contents.row))
    row, box, label = contents.row[order], cells[order], contents.label[order]
    same = np.zeros(len(order), bool)
    same[1:] = (row[1:] == row[:-1]) & (box[1:] == box[:-1]).all(axis=1)
    like = np.zeros(len(order), bool)
    like[1:] = label[1:] == label[:-1]
    for kind, title, chosen, hint in (
        ("box_twice", "duplicate boxes", same & like, "remove one of each"),
        ("two_classes", "identical boxes with two classes", same & ~like, "decide which class is right"),
    ):
        flags = np.zeros(len(order), bool)
        flags[order[chosen]] = True
        yield from finding(kind, title, _examples(contents, flags, lambda k: contents.names[contents.label[k]]), hint)


def _flagged(contents: Contents, flags: Flags, kind: str, title: str, hint: str) -> Iterator[Finding]:
    examples = _examples(contents, flags, lambda k: contents.names[contents.label[k]])
    yield from finding(kind, title, examples, hint, False)


def _examples(contents: Contents, flags: Flags, words: Callable[[int], str]) -> list[Example]:
    """An example for each flagged label."""
    assert contents.boxes is not None
    return [
        Example(contents.paths[contents.row[k]], words(int(k)), (tuple(contents.boxes[k].tolist()),))
        for k in np.flatnonzero(flags)
    ]


def _empty(contents: Contents) -> Iterator[Finding]:
    rows = np.flatnonzero(contents.unlabelled)
    examples = [Example(contents.paths[i], contents.splits[contents.split[i]]) for i in rows]
    hint = "they are trained on as background: see whether they should have boxes"
    if contents.boxes is None:
        hint = "see whether they should have labels"
    yield from finding("empty", "images without labels", examples, hint, False)
