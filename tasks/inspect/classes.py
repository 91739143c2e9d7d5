"""Checks the splits and their classes."""

from collections.abc import Callable, Iterator, Sequence

from tasks.inspect.contents import Contents
from tasks.inspect.files import FileInfo
from tasks.inspect.findings import Example, Finding, finding

FEW = 10  # examples of a class in train


def findings(contents: Contents, infos: Sequence[FileInfo]) -> Iterator[Finding]:
    for split, other in contents.same.items():
        if other == "train":
            words = [Example(None, f"{split} has the same images as train")]
            hint = "its metrics say nothing about new images: use other images"
            yield from finding("no_split", f"splits without images of their own: {split}", words, hint)
    if not contents.names:
        return
    train = contents.per_class("train")
    later = [(split, contents.per_class(split)) for split in contents.splits if split != "train"]
    held = sum((counts for _, counts in later), start=0 * train)

    def those(wanted: Callable[[int], object]) -> list[Example]:
        return [Example(None, f"{name}: {train[i]} in train") for i, name in enumerate(contents.names) if wanted(i)]

    unused = those(lambda i: not train[i] and not held[i])
    yield from finding("unused", "classes without any example", unused, "leave them out of the list of classes")
    unknown = those(lambda i: not train[i] and held[i])
    yield from finding("untrained", "classes that are in val or test but not in train", unknown, "split the data again")
    few = those(lambda i: 0 < train[i] < FEW)
    yield from finding("few", f"classes with fewer than {FEW} examples in train", few, "add some, or merge classes")
    unmeasured = those(lambda i: train[i] >= FEW and not held[i]) if later else []
    yield from finding("unmeasured", "classes without any val or test example", unmeasured, "split the data again")
    groups: dict[str, list[str]] = {}
    for name in contents.names:
        groups.setdefault("".join(filter(str.isalnum, name.lower())), []).append(name)
    alike = [Example(None, ", ".join(map(repr, own))) for key, own in groups.items() if key and len(own) > 1]
    yield from finding("names", "classes with nearly the same name", alike, "merge them if they are the same")
