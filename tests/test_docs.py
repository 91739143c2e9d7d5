"""Documentation that stays true: every command of README.md, CONTRIBUTING.md and docs/ runs, with settings that make
it fast; links, anchors, files and tests that the pages name exist."""

import re
import shlex
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from backbones.errors import UserError
from tasks.engine import multitask_config
from tasks.engine.config import _schema, flatten, load_config
from tasks.run import jobs
from tests.conftest import ROOT
from tests.conftest import command as printed_by

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])
# Their commands take hours: they are composed, not run.
RECIPES = [ROOT / "BENCHMARKS.md", *sorted((ROOT / "conf").glob("**/*.yaml"))]
MARKDOWN = sorted({*PAGES, *ROOT.glob("*.md")})

# The pages' placeholders, and the values that the test puts there. `tiny` is the first run of each task.
PLACEHOLDERS = {
    "<name>": "tiny",
    "<run>": "runs/detection/tiny",
    "<run folder>": "runs/detection/tiny",
    "<image or folder>": "photos",
    "<folder>": "photos",
    "<file>": "train.json",
    "<folder of photographs with boxes>": "scenes",
    "<host>": "example.org",
    "<COCO>": "coco",
    "<CelebA>": "celeba",
    "<BCCD>": "bccd",
    "<folder per breed>": "web",
    "<facenet.onnx>": "facenet.onnx",
    "<mobilenet_2_5_224_tf_no_top.h5>": "weights.h5",
    "<mobilenet_7_5_192_tf_no_top.h5>": "weights.h5",
    "<Keras .h5, timm state dict, checkpoint>": "weights.h5",
    "<timm name, checkpoint or onnx file>": "resnet18",
    "<folder of class folders>": "folders",
    "<a CSV file or a folder of photos with GPS>": "photos",
    "<a photo, folder, quoted glob or .txt list of photos>": "photos",
    "<timm's mobilenetv1_100>": "timm.pth",
    "<folder of ImageNet's classes>": "imagenet",
    "<its file>": "backbone.safetensors",
    "<its numbers>": "512",
    "<node_modules>": "node_modules",
    "<owner>": "ann",
    "<model>": "scenes",
    "<revision>": "main",
    "<n>": "2",
}
# Commands of the pages that are only composed, by their beginning, and why.
COMPOSED = {
    "prepare": "downloads a public data set",
    "check": "reads a data set of the user's",
    "bench": "starts a process for each export and number of threads; tests/test_fixtures.py does so",
    "hub ckpt=": "publishes on a server; tests/tasks/test_hub.py does on one of its own",
    "predict ckpt=hub:": "likewise",
    "zoo": "counts every network; tests/tasks/test_zoo.py does so",
    "shards task=classification data=demo_dogs": "draws many dogs; tests/tasks/test_shards.py writes shards",
    "run task=dogs backbone.alpha=0.25 backbone.pretrained=true": "downloads weights",
    "run backbone.alpha": "a sweep by a launcher; tests/tasks/engine/test_jobs.py runs one",
    "run task=classification data=shards": "reads an object store; tests/data/test_remote.py has one",
}
# Other programs in the pages' code blocks.
OTHERS = {
    "make": "a target of the Makefile",
    "pip": "an installation; the extras are looked up in pyproject.toml",
    "tensorboard": "a server, which does not end",
}
COMMANDS = sorted({path.stem for path in (ROOT / "conf").glob("*.yaml")} - {"config", "sources"})  # beside `run`
FAST = {
    "run": "backbone.alpha=0.25 backbone.variant=shallow task.resolution=96 data.batch_size=8 data.workers=0 "
    "trainer.max_epochs=1 trainer.validate_every=1 trainer.limit_train_batches=2 trainer.precision=32 "
    "trainer.progress_bar=false logger.images=1",
    "export": "calibration=8 max_drop=100 qat_steps=1 overwrite=true",
    "paper": "table=8",
}
# Settings for each data set that a command trains on, if it can be made here.
DATA = {
    "demo_scenes": "data=demo_scenes data.root={scenes} data.train=24 data.val=8 detector=ssd",
    "demo_dogs": "data=dogs data.root={dogs} data.web_labels=web_labels.json",
    "demo_faces": "data=demo_faces data.root={faces} data.people=20 data.images_per_identity=3",
    "demo_people": "data=demo_people data.root={faces} data.people=20 data.images_per_identity=3",
    "demo_earth": "data.train=64 data.val=12 data.gallery=40 data.size=64 data.generated=true data.min_photos=2",
    "csv": "",
    "folders": "data=folders data.root={dogs} data.train=Images data.val=Images",
}


def code_blocks(text: str) -> Iterator[str]:
    """The lines of shell code in a page, indented by four spaces or between fences without a language or with sh."""
    text = re.sub(r"^```(?!sh\b|bash\b|console\b|\n).*?^```$", "", text, flags=re.M | re.S)
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.M | re.S)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:(?<=\n\n)|\A)((?:    [^\n]*\n)+)", rest)
    for block in (*fenced, *indented):
        joined = re.sub(r"\\\n\s*", "", block)
        yield from (line.strip().removeprefix("$ ") for line in joined.splitlines() if line.strip())


def inline_code(text: str) -> Iterator[str]:
    """What a page has between backticks, in its paragraphs and tables."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    yield from (re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def filled(code: str) -> str:
    """`code` with values in the place of its placeholders; one that the table lacks fails the test."""
    for placeholder in re.findall(r"<[^<>]+>", code):
        assert placeholder in PLACEHOLDERS, f"PLACEHOLDERS says nothing of {placeholder} in: {code}"
        code = code.replace(placeholder, PLACEHOLDERS[placeholder])
    return code


def task_command(code: str) -> list[str] | None:
    """The command's module and arguments, or None where `code` is something else."""
    match = re.match(r"python -m tasks\.(\w+)(.*)", code)
    return [match[1], *shlex.split(filled(match[2]), comments=True)] if match else None


def commands_of(page: Path) -> list[list[str]]:
    """The commands of a page. In a sentence, one without settings is a name."""
    text = page.read_text()
    blocks = [command for line in code_blocks(text) if (command := task_command(line))]
    named = [command for code in inline_code(text) if (command := task_command(code))]
    return [*blocks, *(c for c in named if len(c) > 1)]


def single_runs(command: list[str]) -> Iterator[list[str]]:
    """A sweep's runs one by one, for tasks need different settings to be fast; other commands as they are."""
    module, *arguments = command
    if {"-m", "--multirun"} & set(arguments):
        settings = [a for a in arguments if not a.startswith(("-", "hydra"))]
        yield from ([module, *job] for job in jobs(settings))
    else:
        yield command


def compose_command(module: str, arguments: list[str]) -> dict[str, object]:
    """The configuration of a command, which must not name an unknown setting."""
    given = [a for a in arguments if not a.startswith("-")]
    return compose_run(given) if module == "run" else load_config(given, module)


def compose_run(given: list[str]) -> dict[str, Any]:
    """The configuration of a run, of one task or several."""
    return multitask_config.compose_config(given)[0] if "task=multitask" in given else load_config(given)


def demo() -> list[str]:
    """What `make demo` runs, whose run the pages use."""
    (line,) = re.findall(r"^demo:.*\n.* -m tasks\.(.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    return shlex.split(line)


def data_of(arguments: list[str]) -> tuple[str, dict[str, str]]:
    """The task of a run, and the data sets that it trains on, by the prefix of their settings."""
    if added := [a.partition("=")[2] for a in arguments if a.startswith("multitask.add=")]:
        config = load_config([f"task={added[0]}"])
        return "multitask", {f"{added[0]}.": config["groups"]["data"]}
    config = compose_run(arguments)
    several = "parts" in config
    sets = {f"{n}." if several else "": own["groups"]["data"] for n, own in multitask_config.tasks_of(config).items()}
    return config["task"]["name"], sets


def hastened(command: list[str], runs: Counter[str], roots: dict[str, Path]) -> list[str]:
    """The command with additional settings that make it fast."""
    command = ["trainer.minutes=0.05" if a.startswith("trainer.minutes=") else a for a in command]
    module, *arguments = command
    if any(a.startswith(("-", "resume=")) for a in arguments):
        return command
    added = FAST.get(module, "").split()
    if module == "run":
        task, sets = data_of(arguments)
        runs[task] += not any(a.startswith("name=") for a in arguments)
        if any(a.startswith("multitask.add=") for a in arguments):  # the backbone is another run's
            added = [a for a in added if not a.startswith("backbone.")]
        for prefix, data in sets.items():
            assert data in DATA, f"neither DATA nor COMPOSED says how to run this: {command}"
            added += [f"{prefix}{setting}" for setting in DATA[data].format_map(roots).split()]
        added += [f"name=tiny{'' if runs[task] == 1 else runs[task]}"]
    given = {a.partition("=")[0] for a in arguments}
    return [*command, *(a for a in added if a.partition("=")[0] not in given)]


def test_every_command_runs(scenes: Path, dogs: Path, faces: Path, tmp_path: Path) -> None:
    """Trainings first, then what uses their runs, all in one folder and in the order of the pages."""
    commands = list(dict.fromkeys(tuple(run) for page in PAGES for c in commands_of(page) for run in single_runs(c)))
    assert len(commands) > 15
    commands.append(tuple(demo()))
    runs: Counter[str] = Counter()
    roots = {"scenes": scenes, "dogs": dogs, "faces": faces}
    ready = []
    for command in sorted(commands, key=lambda c: c[0] != "run"):  # a stable sort
        text = " ".join(command)
        if any(text.startswith(start) for start in COMPOSED):
            compose_command(command[0], list(command[1:]))
        else:
            ready.append(hastened(list(command), runs, roots))
    ready += [[name, "--help"] for name in ("run", *COMMANDS)]

    (tmp_path / "scenes").symlink_to(scenes)
    (tmp_path / "photos").mkdir()
    photos = sorted((scenes / "val").glob("*.jpg"))
    for name, photo in zip(("photos/1.jpg", "photos/2.jpg", "photo.jpg", "a.jpg"), photos, strict=False):
        (tmp_path / name).write_bytes(photo.read_bytes())
    torch.save(timm.create_model("mobilenetv1_100").state_dict(), tmp_path / "timm.pth")
    for name, photo in zip(("n01440764", "tabby"), photos, strict=False):
        for split in ("train", "val"):
            (tmp_path / "imagenet" / split / name).mkdir(parents=True)
            (tmp_path / "imagenet" / split / name / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / "Images").symlink_to(dogs / "Images")
    shutil.copytree(scenes / "val", tmp_path / "clothing")
    rows = [f"{photo.name},{i},{'ab'[i % 2]},{i % 2 == 0}" for i, photo in enumerate(photos)]
    (tmp_path / "clothing" / "images.csv").write_text("\n".join(["image,sender_id,label,kids", *rows]))
    for module, *arguments in ready:
        result = printed_by(module, *arguments, folder=tmp_path)
        assert result.returncode == 0, f"{shlex.join([module, *arguments])}\n{result.stderr[-4000:]}"


SHOWN = re.compile(
    r"\n    python -m (tasks\.(?:cost|paper)[^\n]*)\n\n(?:(?!    |```)[^\n]+\n)+\n```text\n(.*?)\n```", re.S
)


@pytest.mark.parametrize("page", ["multitask.md", "paper.md"])
def test_what_a_page_shows_is_what_the_command_prints(page: str, tmp_path: Path) -> None:
    shown = SHOWN.findall((ROOT / "docs" / page).read_text())
    assert len(shown) == {"multitask.md": 1, "paper.md": 2}[page]
    for code, output in shown:
        module, *arguments = shlex.split(code)
        printed = printed_by(module.removeprefix("tasks."), *arguments, folder=tmp_path, columns=80).stdout
        assert [line.rstrip() for line in printed.strip("\n").splitlines()] == output.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_shows_is_whole_on_a_terminal_of_80_columns(page: Path) -> None:
    for block in re.findall(r"^```text\n(.*?)^```$", page.read_text(), flags=re.M | re.S):
        if "#SBATCH" not in block:  # a script, which no terminal prints
            assert max(map(len, block.splitlines())) <= 80
            assert "…" not in block


def test_every_other_program_is_known() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for line in code_blocks(page.read_text()):
            if task_command(line):
                continue
            program, *arguments = shlex.split(line, comments=True)
            assert program in OTHERS, f"{page.name}: OTHERS says nothing of: {line}"
            if program == "make":
                assert set(arguments) <= set(targets)
            if extra := re.search(r"\[(\w+)\]", line):
                assert extra[1] in extras


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_recipes_are_valid(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".yaml":  # commands of the header, over lines that end with a backslash
        header = re.sub(r"\\\n#\s*", "", text)
        lines = re.findall(r"^#   (python -m .*)$", header, flags=re.M)
    else:
        lines = [*code_blocks(text), *inline_code(text)]
    for line in lines:
        if command := task_command(line):
            for module, *arguments in single_runs(command):
                missing = [f"{k}={v}" for k, v in needed(module).items() if not any(a.startswith(k) for a in arguments)]
                compose_command(module, [*arguments, *missing])


@cache
def needed(module: str) -> dict[str, str]:
    """Settings that a command must be given."""
    content = yaml.safe_load((ROOT / f"conf/{'config' if module == 'run' else module}.yaml").read_text())
    return {key: "x" for key, value in content.items() if value == "???"}


SETTINGS = re.compile(r"(?:-m )?(?:[a-z_]+(?:\.[a-z_]+)*=\S+)(?: [a-z_]+(?:\.[a-z_]+)*=\S+)*")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_setting_is_one(page: Path) -> None:
    """Settings in backticks, such as `backbone.alpha=0.5`, must belong to some command."""
    for code, runs in settings_of(page):
        assert not {*runs} & refused_settings(), f"no command takes these settings: {code}"


def settings_of(page: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A page's settings in backticks, and the arguments of each run that they stand for."""
    for code in inline_code(page.read_text()):
        if code != "key=value" and SETTINGS.fullmatch(re.sub(r"<[^<>]+>|'[^']*'", "x", code)):
            arguments = [a for a in shlex.split(filled(code)) if not a.startswith(("-m", "hydra."))]
            yield code, [tuple(run) for run in jobs(arguments)]


@cache
def refused_settings() -> set[tuple[str, ...]]:
    """Those of all pages that no command takes; composed together first, as each time takes a tenth of a second."""
    left = {run for page in PAGES for _, runs in settings_of(page) for run in runs}
    tasks: list[tuple[str, ...]] = [(f"task={path.stem}",) for path in sorted((ROOT / "conf/task").glob("[a-z]*.yaml"))]
    tasks[tasks.index(("task=multitask",))] = ("task=multitask", "multitask.tasks=[dogs,faces]")
    ways = [*(("run", task) for task in tasks), *((command, ()) for command in COMMANDS)]
    for module, more in ways:
        rows: dict[str, list[tuple[str, ...]]] = {}
        with suppress(UserError):  # a task that must be given its data is among those that are tried below
            known = flatten(_schema("config" if module == "run" else module, more)[1])
            for run in sorted(left):
                if len(run) == 1 and (key := run[0].partition("=")[0]) in known:
                    rows.setdefault(key, []).append(run)
        for together in zip_longest(*rows.values()):
            left -= taken(module, more, [run for run in together if run])
    return {run for run in left if not any(taken(module, more, [run]) for module, more in ways)}


def taken(module: str, more: tuple[str, ...], runs: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Those of the runs, each of other settings, that a command takes."""
    arguments = [argument for run in runs for argument in run]
    missing = [f"{k}={v}" for k, v in needed(module).items() if not any(a.startswith(k) for a in arguments)]
    own = [a for a in more if not any(b.startswith(("task=", "experiment=")) for b in arguments)]
    try:
        compose_command(module, [*own, *missing, *arguments])
    except UserError:
        half = len(runs) // 2
        return taken(module, more, runs[:half]) | taken(module, more, runs[half:]) if half else set()
    return {*runs}


def test_the_first_table_of_benchmarks_is_made_of_what_stands_below() -> None:
    table, _, below = (ROOT / "BENCHMARKS.md").read_text().partition("\n\nEach row is of a section below")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) > 8
    measured = set(re.findall(r"(?<![\d.])[\d,]+(?:\.\d+)?", below))
    for work, ours, peer, ratio, date in rows[1:]:
        values = [re.match(r"[\d.]+", cell)[0] for cell in (ours, peer)]  # type: ignore[index]
        assert {*values} <= measured, work
        quotient = float(values[1]) / float(values[0])
        wanted = 1 / quotient if "images/s" in ours else quotient
        assert float(ratio) == pytest.approx(wanted, rel=0.04), work
        assert f"{date}, " in below, work


def test_every_page_is_in_the_site() -> None:
    def leaves(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for item in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from leaves(item)

    root = {"index.md", *(f"{name}.md" for name in ("BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "SECURITY"))}
    named = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(named) == sorted(root | {path.name for path in (ROOT / "docs").glob("*.md")})


def slug(heading: str) -> str:
    """The anchor that a heading gets on public hosting."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
            assert anchor in {slug(h) for h in headings}, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: path.name)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("**/test_*.py"))
    for code in inline_code(page.read_text()):
        if re.fullmatch(r"(?:backbones|conf|data|docs|tasks|tests)/[\w./-]*", code):
            assert (ROOT / code).exists(), f"{page.name} names {code}"
        if re.fullmatch(r"test_\w+", code):
            assert f"def {code}(" in sources, f"{page.name} names {code}"
