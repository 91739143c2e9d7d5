"""mkdocs' hook: the pages at the root of the repository join those of docs/, and links between them follow."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {f"{name}.md": f"{name}.md" for name in ("BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "SECURITY")}
PAGES["README.md"] = "index.md"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root."""
    for name, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Has the links of a page lead to where its targets are in the site; what is not there becomes plain text."""
    origin = next((name for name, target in PAGES.items() if target == page.file.src_uri), f"docs/{page.file.src_uri}")

    def moved(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        name, hash_, anchor = target.partition("#")
        if "://" in target or not name:
            return match[0]
        path = (ROOT / origin).parent.joinpath(name).resolve().relative_to(ROOT).as_posix()
        found = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"{image}[{words}]({found}{hash_}{anchor})" if found and not path.endswith(".ipynb") else words

    return LINK.sub(moved, markdown)
