"""Every command, key, path and Python name that a document mentions exists in the code."""

import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from emage.commands import COMMANDS
from emage.config import nearest
from emage.config.fields import leaves
from emage.config.presets import presets

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/*.md"))
)
GENERATED = {"docs/configuration.md", "docs/http_api.md"}  # from the code itself, by tests of their own
FOLDERS = ("emage", "pipelines", "benchmarks", "cluster", "tests", "docs", "examples")
FILES = (".json", ".safetensors", ".yaml", ".png", ".md", ".parquet", ".py")  # endings of names that are no keys
PROGRAMS = {name: pkgutil.resolve_name(command.settings) for name, command in COMMANDS.items()}
KEYS = {key for program in PROGRAMS.values() for key in leaves(program)}
GROUPS = {key.split(".")[0] for key in KEYS if "." in key}


def code(document: str) -> Iterator[str]:
    """Yield the document's code: each fenced line (continued lines joined), and each `inline` piece."""
    text = (ROOT / document).read_text()
    fences = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.M | re.S)
    for block in fences:
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))


def words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # an open quote: prose
        return []


def called(line: str) -> tuple[str, list[str]] | None:
    """Return (program, its arguments) if a line calls one of ours."""
    found = words(line)
    for i, word in enumerate(found):
        rest = found[i + 1 :]
        if match := re.fullmatch(r"(?:\./)?pipelines/(\w+)\.py", word):
            return match[1], rest
        is_command = i == 0 or found[i - 1] in ("--", "&&", "|")
        if word in ("emage", ".venv/bin/emage") and is_command and rest and re.fullmatch(r"[a-z]+", rest[0]):
            return rest[0], rest[1:]
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_presets_and_keys_exist(document: str):
    for line in code(document):
        if (found := called(line)) is None:
            continue
        name, arguments = found
        assert name in PROGRAMS, f"{line}: no program {name}{nearest(name, list(PROGRAMS))}"
        program, first = PROGRAMS[name], arguments[:1]
        if first and re.fullmatch(r"[a-z]\w*", first[0]) and not COMMANDS[name].words:
            assert first[0] in presets(program), f"{line}: no preset {first[0]}"
        for argument in arguments:
            if match := re.match(r"([a-z_][\w.]*)=", argument):
                assert is_key(match[1], program), f"{line}: {name} has no key {match[1]}"


def is_key(key: str, program: type) -> bool:
    """Return whether it is a key, a group of keys, or an entry of an open dictionary (`more.NAME.table`)."""
    known = leaves(program)
    if key in known or any(other.startswith(f"{key}.") for other in known):
        return True
    for name, leaf in known.items():
        if leaf.default == {} and key.startswith(f"{name}."):
            return leaf.setting.entries is None or key.removeprefix(f"{name}.") in leaves(leaf.setting.entries)
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_dotted_keys_exist(document: str):
    for piece in code(document):
        match = re.fullmatch(r"([a-z_]+\.[a-z_.]+)(=\S*)?", piece)
        if match and match[1].split(".")[0] in GROUPS and not match[1].endswith(FILES):
            assert any(is_key(match[1], program) for program in PROGRAMS.values()), (
                f"{document}: no key {match[1]}{nearest(match[1], sorted(KEYS))}"
            )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document: str):
    text = (ROOT / document).read_text()
    pieces = {piece for line in code(document) for piece in line.split()}
    for piece in sorted(pieces):
        path = piece.strip("`'\"(),;:").split(":")[0].split("#")[0]
        if "..." not in path and re.match(rf"({'|'.join(FOLDERS)})/[\w.*{{}},/-]*$", path):
            assert expand(path), f"{document}: no file {path}"
    for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not link.startswith("mailto:"):
            target = (ROOT / document).parent / link
            root_pages = {"CHANGELOG.md", "CONTRIBUTING.md"}  # the site has copies of them
            assert target.exists() or target.name in root_pages, f"{document}: no file {link}"


def expand(pattern: str) -> list[Path]:
    """Return the files of a path with * or {a,b}."""
    if braces := re.search(r"\{([^}]*)\}", pattern):
        options = [pattern.replace(braces[0], option, 1) for option in braces[1].split(",")]
        parts = [expand(option) for option in options]
        return [path for part in parts for path in part] if all(parts) else []
    return list(ROOT.glob(pattern.rstrip("/")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_names_exist(document: str):
    if document == "docs/upgrading.md":
        pytest.skip("it lists the names of earlier versions")
    for piece in code(document):
        for name in re.findall(r"(?<![\w/.-])emage(?:\.\w+)+", piece):
            if not name.endswith((".py", ".tokenizer", ".png")) and name not in {"emage.git", "emage.version"}:
                assert resolves(name), f"{document}: {name} is neither a module nor a name in one"


def resolves(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in code(document):
        for target in re.findall(r"(?:^|[\s;&(])make ([a-z][a-z-]*)", line):
            assert target in targets, f"{document}: make has no target {target}"


def test_the_documents_mention_enough_for_these_tests_to_mean_something():
    lines = [line for document in DOCUMENTS for line in code(document)]
    assert sum(called(line) is not None for line in lines) > 40
    assert sum("emage/" in line or "benchmarks/" in line for line in lines) > 40
