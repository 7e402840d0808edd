"""docs/configuration.md is current and complete; every environment variable that the code names is in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emage import commands, config, configuration_page
from emage.config import presets
from emage.config.environment import VARIABLES
from emage.config.fields import leaves, sections

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
PROGRAMS = [getattr(config, command.settings.removeprefix("emage.config:")) for command in commands.COMMANDS.values()]


def test_the_committed_page_is_current():
    assert PAGE.read_text() == configuration_page.markdown(), (
        "run: python -m emage.configuration_page > docs/configuration.md"
    )


@pytest.mark.parametrize("program", [*PROGRAMS, config.CheckpointConfig])
def test_every_key_has_a_sentence_a_source_and_a_range(program: type):
    for section in sections(program):
        assert section.summary.endswith((".", ")")), section
    for leaf in leaves(program).values():
        described = leaf.setting
        assert re.fullmatch(r"[A-Za-z`].*[.]", described.meaning), leaf.key
        assert re.fullmatch(r"ours|paper, (Sec\. \d(\.\d)?|Abstract)", described.source), leaf.key
        if re.search(r"\b(int|float)\b", str(leaf.type)) and "Literal" not in str(leaf.type):
            assert described.minimum is not None or described.above is not None, f"{leaf.key} has no range"


def test_every_default_and_preset_is_allowed():
    for program in PROGRAMS:
        required = {key: "text" for key, leaf in leaves(program).items() if leaf.default == "???"}
        if program is config.EvaluateConfig:
            required["judge.reference"] = "text"  # some presets have metrics that need it
        for name in (None, *presets.presets(program)):
            preset = [name] if name else []
            config.parse(program, [*preset, *(f"{key}={value}" for key, value in required.items())])


def test_every_preset_has_its_line_and_sets_keys_that_exist():
    assert list(presets.SUMMARIES) == list(presets.PRESETS)
    for program in PROGRAMS:
        for values in presets.presets(program).values():
            assert values.keys() <= leaves(program).keys()


def test_every_environment_variable_in_the_code_is_documented():
    """Names in capitals, in each file that uses the environment; and those that the image sets."""
    named = set()
    for folder in ("emage", "pipelines", "benchmarks", "cluster"):
        for file in (ROOT / folder).rglob("*.py"):
            if "environ" in file.read_text():
                named |= set(_variables(file))
    image = re.findall(r"^(?:ENV| {4}) ?([A-Z_]+)=", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)
    named |= {name for name in image if not name.startswith(("PYTHON", "DEBIAN"))}
    assert {"EMAGE_CACHE", "CXX", "RAY_ADDRESS", "RAY_AUTH_MODE", "MLFLOW_TRACKING_URI"} <= named
    assert not named - VARIABLES.keys(), f"describe them in emage/config/environment.py: {named - VARIABLES.keys()}"


def _variables(file: Path) -> Iterator[str]:
    """Constants that look like a variable, and the first argument of environ.get and its like."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            yield node.value
        if isinstance(node, ast.Call) and "environ" in ast.unparse(node.func) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield first.value
