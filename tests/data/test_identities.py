"""Folders of people, LFW's pairs, and errors for wrong pairs."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from data.identities import IdentityData, People
from data.layouts import recognize


def data(root: Path, **settings: Any) -> IdentityData:
    folders: dict[str, Any] = {"train": "people", "val": "lfw", "pairs": "pairs.txt", "workers": 0}
    return IdentityData(str(root), 32, **(folders | settings))


def test_people_are_numbers_and_pairs_are_those_of_the_file(faces: Path) -> None:
    found = data(faces)
    assert found.labels == [str(i) for i in range(16)]
    samples = found.samples("val")
    pairs = found.pairs("val")
    assert pairs is not None
    head, *lines = (faces / "pairs.txt").read_text().splitlines()
    folds, size = map(int, head.split())
    assert len(lines) == 2 * folds * size == len(pairs.rows)
    assert Counter(pairs.folds.tolist()) == dict.fromkeys(range(folds), 2 * size)
    for line, rows, same in zip(lines, pairs.rows, pairs.same, strict=True):
        words = line.split()
        a, b = (samples[i] for i in rows)
        assert (len(words) == 3) == same == (a.label == b.label)
        assert a.path.stem == f"{words[0]}_{int(words[1]):04d}"
        assert b.path.stem == f"{words[-2] if not same else words[0]}_{int(words[-1]):04d}"
    people = [{samples[i].label for i in pairs.rows[pairs.folds == fold].ravel()} for fold in range(folds)]
    assert not set.intersection(*people)
    assert found.pairs("train") is None


def test_a_batch_has_several_images_of_each_person(faces: Path) -> None:
    found = data(faces, images_per_person=2, batch_size=8)
    loader = found.train_dataloader()
    assert isinstance(found.dataset("train"), People)
    batches = list(loader)
    assert len(batches) == 16 * (3 // 2) // 4
    for batch in batches:
        assert len(batch.images) == 8
        assert Counter(batch.labels.tolist()) == dict.fromkeys(batch.labels.tolist(), 2)
        assert len(set(batch.paths)) == 8
    many = People(found.dataset("train").images, 5)[0]  # type: ignore[attr-defined]  # more than a person has
    assert len(many) == 5
    assert {m["label"] for m in many} == {many[0]["label"]}


def test_images_of_nobody_knows_whom(faces: Path, tmp_path: Path) -> None:
    found = data(faces, train="img_align_celeba")
    assert found.labels == []
    assert {s.label for s in found.samples("train")} == {-1}
    with pytest.raises(UserError, match=r"has no folders of people; set data\.images_per_person=1"):
        data(faces, train="img_align_celeba", images_per_person=4).build_dataset("train")
    shutil.copytree(faces / "img_align_celeba", tmp_path / "unpacked")
    (tmp_path / "unpacked" / "__MACOSX").mkdir()  # which macOS adds to archives
    assert data(tmp_path, train="unpacked").labels == []


@pytest.mark.parametrize(
    ("line", "content", "words"),
    [
        (1, "Nobody\t1\t2", "line 2: there are no images of Nobody"),
        (1, "Drawn_017\t1\t9", "line 2: Drawn_017 has no image number 9"),
        (1, "Drawn_017\t1\t\u00b2", "line 2: Drawn_017 has no image number \u00b2"),
        (2, "Drawn_017\t1\tNobody\t2", "line 3: there are no images of Nobody"),
        (2, "Drawn_017", "line 3: should be"),
        (1, "", "announces"),
        (0, "ten", "should start with the number of folds"),
        (0, "\u00b2\t3", "should start with the number of folds"),
    ],
)
def test_pairs_that_are_not_right(line: int, content: str, words: str, faces: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(faces, tmp_path / "faces"))
    lines = (root / "pairs.txt").read_text().splitlines()
    lines[line] = content
    (root / "pairs.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=words) as error:
        data(root).pairs("val")
    assert str(root / "pairs.txt") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_labels_beside_people(faces: Path, tmp_path: Path) -> None:
    """Such as landmarks: people are told by their folders all the same."""
    shutil.copytree(faces / "lfw", tmp_path / "people")
    for path in (tmp_path / "people").rglob("*.jpg"):
        path.with_suffix(".json").write_text('{"shapes": [], "imagePath": "a.jpg"}')
    assert recognize(tmp_path / "people", "_identities").option == "identities"


def test_people_of_train_in_val_are_told(faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By their number, not by their names."""
    for split in ("train", "val"):
        shutil.copytree(faces / "lfw", tmp_path / split)
    shutil.move(tmp_path / "val" / "Drawn_017", tmp_path / "val" / "Other")
    data(tmp_path, train="train", val="val", pairs=None).check()
    (told,) = [message for message in caplog.messages if "people of val" in message]
    assert "3 of 4 people of val are in train too" in told
    assert "Drawn" not in told
    caplog.clear()
    data(faces).check()
    assert not caplog.messages


def test_people_are_not_written_as_shards(faces: Path) -> None:
    with pytest.raises(UserError, match="cannot be written as shards"):
        data(faces).sample_sources("train")


def test_folders_that_are_not_there(faces: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        data(faces, val="nowhere").samples("val")
    with pytest.raises(UserError, match=r"pairs.txt cannot be read: No such file"):
        data(faces, pairs="no/pairs.txt").pairs("val")
    assert data(faces, pairs=None).pairs("val") is None
