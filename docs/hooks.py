"""What MkDocs calls while it builds the site: pages may link to files of the repository outside docs/.

Such a link is relative to the page's path in the repository, so that it works where the repository is browsed. The hook
adds the file to the site under its repository path, and makes the link relative to the page's path in the site.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # of the navigation
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")  # the target of [text](target) without its anchor


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that the navigation and the pages name, and those that these name in turn."""
    waiting = [_repository_path(file.src_uri) for file in files if file.is_documentation_page()]
    waiting += [_add(files, config, path) for path in PAGES]
    while waiting:
        for target in _targets(waiting.pop()):
            inside = target.startswith("docs/") or files.get_file_from_path(target)
            if not inside and (ROOT / target).is_file():
                waiting.append(_add(files, config, target))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make the links of a page relative to its place in the site."""
    path = _repository_path(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def in_site(match: re.Match[str]) -> str:
        target = _target(path, match[1]).removeprefix("docs/")
        return posixpath.relpath(target, folder or ".") if files.get_file_from_path(target) else match[1]

    return LINK.sub(in_site, markdown)


def _add(files: Files, config: Any, path: str) -> str:
    inclusion = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
    files.append(File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=inclusion))
    return path


def _repository_path(src_uri: str) -> str:
    """Return where a file of the site is in the repository."""
    return f"docs/{src_uri}" if (ROOT / "docs" / src_uri).is_file() else src_uri


def _targets(path: str) -> Iterator[str]:
    """Yield the repository paths that a page links to."""
    if path.endswith(".md"):
        yield from (_target(path, link) for link in LINK.findall((ROOT / path).read_text()))


def _target(path: str, link: str) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return "docs/index.md" if target == "README.md" else target  # the repository's first page is not the site's
