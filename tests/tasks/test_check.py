"""The command that checks a data set: what it prints, its page, and the first lines of a training."""

import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from backbones.console import Console
from backbones.errors import UserError
from data.coco import DemoScenesData
from data.image_file import MAX_PIXELS
from data.overlap import overlaps
from tasks.check import check, with_task
from tasks.inspect.files import inspect_file, inspect_files
from tasks.inspect.findings import Example, Finding
from tasks.inspect.report import _odd
from tests.conftest import command
from tests.data.geo.test_places import photo

HOSTILE = "<script>alert(1)</script>[/red]\x1b[2J"


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def voc(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scenes as Pascal VOC with lists, whose classes have hostile names."""
    root = tmp_path_factory.mktemp("voc")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((scenes / f"{split}.json").read_text())
        names = []
        for image in content["images"]:
            name = f"{split}-{Path(image['file_name']).stem}"
            names.append(name)
            shutil.copy(scenes / split / image["file_name"], root / "JPEGImages" / f"{name}.jpg")
            objects = "".join(
                f"<object><name>&lt;script&gt;{a['category_id']}[/red]</name><bndbox><xmin>{x + 1}</xmin>"
                f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for a in content["annotations"]
                if a["image_id"] == image["id"]
                for x, y, w, h in [a["bbox"]]
            )
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return root


def test_the_account_and_its_page(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / HOSTILE.replace("/", "_")
    shutil.copytree(voc, root)
    long = f"{HOSTILE.replace('/', '_')}{'x' * 60}"
    images = sorted((root / "JPEGImages").iterdir())
    shutil.copy(images[0], images[-1])
    shutil.copy(images[1], root / "JPEGImages" / f"{long}.jpg")
    monkeypatch.setenv("COLUMNS", "200")
    found = check([f"data.root='{root}'", f"output={tmp_path / 'new' / 'page.html'}"])
    assert {"two_splits", "unlisted"} <= {f.kind for f in found.findings}
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines()[1:-2])) <= 120
    assert "train with: python -m tasks.run task=detection" in printed
    assert "24" in printed
    assert "<script>" in printed

    page = (tmp_path / "new" / "page.html").read_text()
    tags = Tags(page).found
    assert "script" not in {tag for tag, _ in tags}
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
    sources = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert len(sources) > 20
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_the_task_is_guessed(dogs: Path, voc: Path, tmp_path: Path) -> None:
    overrides, layout = with_task([f"data.root={voc}"])
    assert overrides[0] == "data=voc"
    assert layout
    assert "task=detection" in overrides
    with pytest.raises(UserError, match="it has no images"):
        with_task([f"data.root={tmp_path}"])
    with pytest.raises(UserError, match="there is no folder"):
        with_task([f"data.root={tmp_path / 'absent'}"])


@pytest.mark.parametrize("folder", ["", "cats", "images"])
def test_images_without_labels_are_of_no_task(folder: str, tmp_path: Path) -> None:
    """Photos without GPS were taken for photos with positions, and images for those of faces."""
    for i in range(3):
        person(tmp_path / folder / f"{i}.png", 20 + i)
    where = f" in {folder}" if folder else ""
    words = rf"3 images{where}, but no files of labels\. Boxes are read from COCO JSON, .* name the task with task="
    with pytest.raises(UserError, match=words):
        with_task([f"data.root={tmp_path}"])
    assert with_task([f"data.root={tmp_path}", "task=geo"])[1]


def test_photos_with_a_position_are_of_geo(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", {1: "N", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 45.0, 0.0)})
    assert "task=geo" in with_task([f"data.root={tmp_path}"])[0]


def test_a_data_set_that_is_not_there_yet(tmp_path: Path) -> None:
    words = r"there is no folder .*demo_scenes: give data\.root=<folder>; a demo's data are written by its training"
    with pytest.raises(UserError, match=words):
        check([f"paths.data={tmp_path}"])


def test_the_command(dogs: Path, tmp_path: Path) -> None:
    """A data set that is not for detection."""
    result = command("check", "task=dogs", "data=dogs", f"data.root={dogs}", f"output={tmp_path / 'dogs.html'}")
    assert result.returncode == 0, result.stderr
    assert "36" in result.stdout
    assert (tmp_path / "dogs.html").exists()
    assert "train with" not in result.stdout  # its settings are more than a folder


def test_a_sample_is_decoded_and_all_files_are_opened(scenes: Path, tmp_path: Path) -> None:
    files = sorted((scenes / "train").glob("*.jpg"))
    infos = list(inspect_files(files, 6, MAX_PIXELS))
    assert [i.problem for i in infos] == [None] * len(files)
    assert sum(i.thumb is not None for i in infos) == 6
    assert {(i.width, i.height) for i in infos} == {Image.open(f).size for f in files}
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(files[0].read_bytes()[:-20])
    assert inspect_file(cut, decode=False).rows is not None  # found without decoding it


def test_many_files_are_looked_at_by_processes(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((scenes / "train").glob("*.jpg"))
    alone = list(inspect_files(files, len(files), MAX_PIXELS))
    monkeypatch.setattr("tasks.inspect.files.MANY", 2)
    assert list(inspect_files(files, len(files), MAX_PIXELS)) == alone


def test_images_in_two_splits_are_told(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    data = DemoScenesData(str(root), 64, train=24, val=8, seed=0)
    data.check()
    assert overlaps(data) == []
    shutil.rmtree(root / "val")
    (root / "val").symlink_to(root / "train")  # another path to the same images
    data = DemoScenesData(str(root), 64, train=24, val=8, seed=0)
    data.check()
    assert overlaps(data) == ["8 images are in train and in val, for example 000000.jpg"]


def person(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), grey).save(path)


def test_people_are_numbered_in_each_split_by_itself(tmp_path: Path) -> None:
    """More people in val than in train made the command fail; with fewer, one was taken for another."""
    for split, people in (("train", 3), ("val", 5)):
        for i in range(people):
            for k in range(2):
                person(tmp_path / "data" / split / f"{split}{i}" / f"{k}.png", 20 + 5 * i + k)
    found = check(["task=embedding", f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'a.html'}"])
    assert not [f for f in found.findings if f.kind in ("few", "untrained", "unmeasured", "empty")]


def test_no_is_a_label(tmp_path: Path) -> None:
    rows = ["image,hat"]
    for i in range(12):
        person(tmp_path / "data" / f"{i}.png", 20 + 3 * i)
        rows.append(f"{i}.png,{'yes' if i % 4 == 0 else 'no' if i != 5 else ''}")
    (tmp_path / "data" / "train.csv").write_text("\n".join(rows))
    found = check(["task=faces", f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'a.html'}"])
    empty = [f for f in found.findings if f.kind == "empty"]
    assert [len(f.examples) for f in empty] == [1]  # the one image without a value


def test_a_folder_of_two_layouts_is_not_tried_as_another_tasks(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "both")
    for path in (tmp_path / "both" / "train").glob("*.jpg"):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2")
    with pytest.raises(UserError, match="can be read in several ways: choose data="):
        with_task([f"data.root={tmp_path / 'both'}"])


def test_the_data_of_several_tasks_is_checked_one_task_at_a_time(scenes: Path) -> None:
    for more in ([], [f"data.root={scenes}"]):
        with pytest.raises(UserError, match="task=multitask: check the data of its tasks one at a time"):
            check(["task=multitask", "multitask.tasks=[dogs,faces]", *more])


@pytest.mark.parametrize(
    ("task", "table"),
    [
        ("geo", "photo,latitude,longitude\n0,48.1,11.6\n1,52.5,13.4"),
        ("faces", "photo,glasses,hat\n0,yes,no\n1,no,no"),
        ("classification", "photo,breed\n0,husky\n1,beagle"),  # no task but this can ask which column has the classes
    ],
)
def test_tables_are_of_the_task_whose_columns_they_have(task: str, table: str, tmp_path: Path) -> None:
    for i in range(2):
        person(tmp_path / "img" / f"{i}.png", 20 + i)
    (tmp_path / "list.csv").write_text(table)
    (tmp_path / "sampleSubmission.csv").write_text("id,label\n0,a\n1,b")
    assert f"task={task}" in with_task([f"data.root={tmp_path}"])[0]


def test_the_setting_of_a_task_decides(tmp_path: Path) -> None:
    for i in range(2):
        person(tmp_path / "img" / f"{i}.png", 20 + i)
    (tmp_path / "list.csv").write_text("photo,ill\n0,yes\n1,no")
    assert "task=classification" in with_task([f"data.root={tmp_path}", "data.target=ill"])[0]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_table_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    """Detection's error, that the layout is unknown, hid this one."""
    for i in range(2):
        person(tmp_path / "img" / f"{i}.png", 20 + i)
    (tmp_path / "list.csv").write_text("foto,label\n0,Dackel\n1,Königspudel", encoding=encoding)
    with pytest.raises(UserError, match=r"list\.csv is not UTF-8: save it as UTF-8"):
        with_task([f"data.root={tmp_path}"])


def test_data_that_cannot_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that was recommended ended with this error."""
    for i in range(8):
        person(tmp_path / "data" / f"{i}.png", 20 + i)
    rows = [f"{i}.png,0.1,0.1,0.5,0.6,cat" for i in range(8)]
    (tmp_path / "data" / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,class", *rows]))
    (tmp_path / "data" / "9.heic").touch()
    (tmp_path / "a.html").symlink_to(tmp_path / "victim")
    found = check([f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'a.html'}"])
    assert (tmp_path / "a.html").is_file()
    assert not (tmp_path / "victim").exists()
    assert [f.count for f in found.findings if f.kind == "unread"] == [1]
    printed = capsys.readouterr().out
    assert "training would fail: " in printed
    assert "are normalised (0 to 1); they must be in pixels" in printed
    assert "train with" not in printed


@pytest.mark.parametrize("columns", [80, 160])
def test_long_examples_leave_room_for_counts_and_titles(columns: int) -> None:
    title = "images whose size differs from the annotated one"
    text = io.StringIO()
    finding = Finding("size", title, 1234, "", [Example(None, "x" * 300)])
    Console(width=columns, file=text).print(_odd([finding], columns))
    row = text.getvalue().splitlines()[3]
    assert row == f" 1,234   {title}   {'x' * (columns - 62)}… "
