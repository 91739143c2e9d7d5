"""Images with classes or attributes in a table: CSV, TSV or JSON lines."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbones.errors import UserError
from data.base import SPLITS, Split
from data.classification import Sample
from data.faces import FacesData
from data.rejects import Rejects
from data.splits import FILE, given_splits, source_name
from data.table import (
    BINARY,
    Images,
    Table,
    binary_columns,
    group_hint,
    image_column,
    read_table,
    split_column,
    target_column,
)


class LabelledImage(NamedTuple):
    """An image of a table: its class or its attributes (A,) int8, its group, and the word for its split."""

    label: str | np.ndarray
    group: str
    split_word: str


class CsvData(FacesData):  # also of classes: such tables differ only in their columns of labels
    """The images that the table `train` below `root` names, with classes or `attributes`.

    `image`, `target` and `group` name columns; if null, the image column is the one whose values name files, and the
    class column is recognised by its name. `attributes` null: classes; an empty list: all yes/no columns. `val` and
    `test` are further tables; without val, splits are those of a column, or else those that the images' folders are
    named after; if there are none, a fifth of train is drawn for val, with each `group` in one split.

    Raises:
        UserError: a table or a column is absent, or too many rows cannot be used.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: str,
        val: str | None = None,
        test: str | None = None,
        image: str | None = None,
        target: str | None = None,
        attributes: Sequence[str] | None = None,
        group: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, resolution, **settings)
        self.files = {"train": train, "val": val, "test": test or val}
        self.image, self.target, self.group = image, target, group
        self.attributes = attributes
        self._read: dict[str, dict[Path, LabelledImage]] = {}

    @cached_property
    def _train_table(self) -> Table:
        return read_table(self.root / str(self.files["train"]))

    @cached_property
    def image_name(self) -> str:
        """The column of the images."""
        table = self._train_table
        found = self.image or image_column(table, Images(table.path, self.root))
        if found is None:
            raise UserError(
                f"{table.path}: no column names images below {table.path.parent}; its columns are {table.names}; "
                "if there are, set data.image=<column>"
            )
        return found

    @cached_property
    def split_name(self) -> str | None:
        """The column of the splits, if there is no table of val."""
        name = None if self.files["val"] else split_column(self._train_table)
        if not name or name == self.target:
            return None
        self.add_choice(f"splits by the column {name}")
        return name

    @cached_property
    def target_names(self) -> list[str]:
        """The column of the classes, or those of the attributes."""
        table = self._train_table
        if self.attributes is None:
            names = [name] if (name := self.target or target_column(table)) else []
            setting, kind, described = "data.target=<column>", "classes", "classes in"
        else:
            names = list(self.attributes) or binary_columns(table, (self.image_name, self.group))
            setting, kind, described = "data.attributes=[columns]", "both yes and no", "attributes"
        if not names:
            raise UserError(f"{table.path}: which column has {kind}? It has {table.names}; set {setting}")
        self.add_choice(f"image names in {self.image_name}, {described} {', '.join(names)}")
        hint = group_hint(table, (self.image_name, *names))
        if hint and not self.group and not self.files["val"] and not self.split_name:
            self.add_choice(f"data.group={hint} would keep each {hint} in one split")
        return names

    def rows(self, name: str) -> dict[Path, LabelledImage]:
        """The images of a table, read once."""
        if name not in self._read:
            table = self._train_table if name == self.files["train"] else read_table(self.root / name)
            self._read[name] = self._rows(table)
        return self._read[name]

    def _rows(self, table: Table) -> dict[Path, LabelledImage]:
        setting = "data.target" if self.attributes is None else "data.attributes"
        split_name = self.split_name if table is self._train_table else None
        columns = [
            table.column(self.image_name, "data.image"),
            *([table.column(self.group, "data.group")] if self.group else []),
            *([table.column(split_name, "split")] if split_name else []),
            *(table.column(name, setting) for name in self.target_names),
        ]
        images, rejects = Images(table.path, self.root), Rejects(table.path)
        found: dict[Path, LabelledImage] = {}
        for row in table.rows:
            if len(row) <= max(columns):
                rejects.add(f"without {len(table.columns)} values", ",".join(row)[:80])
                continue
            name, *more = (row[column] for column in columns)
            group = more.pop(0) if self.group else ""
            word = more.pop(0) if split_name else ""
            path = images.find(name)
            if path is None:
                rejects.add("without an image", name)
            elif path in found:
                rejects.add("that repeat an image", name)
            elif wrong := self._wrong(more):
                rejects.add(wrong, f"{name}, {','.join(more)}")
            else:
                # an image without a group is a group of its own, with its copies
                found[path] = LabelledImage(self._label(more), group or source_name(str(path)), word)
        rejects.report(len(table.rows), self.max_bad)
        return found

    def _wrong(self, values: Sequence[str]) -> str | None:
        """The reason why a row's class or attributes cannot be used, if any."""
        if self.attributes is None:
            return None if values[0] else "without a class"
        return None if all(v.lower() in BINARY for v in values) else "with a value that is not yes or no, 1, 0 or -1"

    def _label(self, values: Sequence[str]) -> str | np.ndarray:
        return values[0] if self.attributes is None else np.array([BINARY[v.lower()] for v in values], np.int8)

    @cached_property
    def splits(self) -> dict[Split, dict[Path, LabelledImage]]:
        """The rows of each split: from its own table, or of train's table."""
        train = self.rows(str(self.files["train"]))
        found: dict[Split, dict[Path, LabelledImage]] = {"train": train, "val": {}, "test": {}}
        if not self.files["val"]:
            wanted = self._split_of(train)
            found = {split: {path: row for path, row in train.items() if wanted[path] == split} for split in SPLITS}
        for split in SPLITS[1:]:
            if name := self.files[split]:
                found[split] = self.rows(name)
        found["test"] = found["test"] or found["val"]
        train = found["train"]
        for split in SPLITS[1:]:
            both = {row.group for row in train.values()} & {row.group for row in found[split].values()}
            if self.group and both:
                raise UserError(f"data.group={self.group}: {min(both)} is in train and in {split}")
        return found

    def _split_of(self, rows: dict[Path, LabelledImage]) -> dict[Path, str | None]:
        """The split of each row of train's table: by the column of splits or the images' folders, or else drawn."""
        keys = {path: path.relative_to(self.root).as_posix() for path in rows}
        words = [row.split_word for row in rows.values()] if self.split_name else []
        given = given_splits(self._train_table.path, [*keys.values()], words, self.add_choice)
        splits = dict(zip(rows, given, strict=True))
        if "val" in splits.values():
            return splits
        train = {path: row for path, row in rows.items() if splits[path] == "train"}
        # several attributes have too many combinations to stratify by
        single = len(self.target_names) == 1
        strata = [str(row.label) for row in train.values()] if single else None
        file = f"splits_{re.sub(r'[^0-9A-Za-z]', '_', self.group)}.json" if self.group else FILE
        drawn = self.draw_val([keys[path] for path in train], strata, [row.group for row in train.values()], file)
        return splits | {path: drawn[keys[path]] for path in train}

    @cached_property
    def labels(self) -> list[str]:
        if self.attributes is not None:
            return self.target_names
        names = {str(row.label) for row in self.splits["train"].values()}
        if len(names) < 2:
            raise UserError(f"{self._train_table.path} has {len(names)} classes to train on; at least 2 are needed")
        return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))

    def use_labels(self, labels: list[str]) -> None:
        if self.attributes is not None:
            self.attributes = self.attributes or labels  # the model's: some may be constant in these data
        super().use_labels(labels)

    def table(self, split: Split) -> dict[Path, np.ndarray]:
        return {path: np.asarray(row.label) for path, row in self.splits[split].items()}

    def samples(self, split: Split) -> list[Sample]:
        if self.attributes is not None:
            return super().samples(split)
        index = {name: i for i, name in enumerate(self.labels)}
        rows = self.splits[split]
        if strange := sorted({str(row.label) for row in rows.values()} - index.keys()):
            own, train = self.files[split], self.files["train"]
            where = self.root / own if own else f"{self.root / str(train)}: {split}"
            raise UserError(f"{where} has a class that train lacks: {strange[0]}")
        return [Sample(path, index[str(row.label)]) for path, row in rows.items()]
