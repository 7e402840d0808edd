"""The command `emage`: its programs by name, their help, one line and exit code 2 for bad input."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import emage
from emage import commands, config

PIPELINES = Path(__file__).parents[1] / "pipelines"


def test_help_lists_every_command(run_command):
    done = run_command("--help")
    assert done.returncode == 0
    for name, command in commands.COMMANDS.items():
        assert f"  {name} " in done.stdout and command.summary in done.stdout
    asked_for_nothing = run_command()
    assert (asked_for_nothing.returncode, asked_for_nothing.stderr) == (2, done.stdout)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_help_whose_reader_leaves_ends_quietly(words: list[str]):
    """As in `emage train --help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "emage", *words], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_version(run_command):
    assert run_command("--version").stdout == f"emage {emage.__version__}\n"
    assert importlib.metadata.version("emage") == emage.__version__


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_its_help(name: str, run_command):
    done = run_command(name, "--help")
    assert done.returncode == 0 and "key=value" in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_rejects_a_mistyped_key(name: str, run_command):
    done = run_command(name, "outputt=x")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_mistyped_command(run_command):
    done = run_command("trian")
    assert done.returncode == 2
    assert done.stderr == "error: unknown command 'trian'; did you mean train? (emage --help)\n"


@pytest.mark.parametrize(("name", "package"), [("train", "ray"), ("doctor", "ray"), ("curves", "matplotlib")])
def test_a_package_that_is_not_installed_is_one_line(name: str, package: str, tmp_path: Path):
    """As in an environment with the core alone, whether it is imported at once or when it is needed."""
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    words = {"train": ["tiny", "data.path=x", "run.output=y"], "doctor": [], "curves": [str(tmp_path)]}[name]
    code = f"import sys; sys.modules[{package!r}] = None; from emage import commands; commands.main({[name, *words]!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    expected = f"error: emage {name} needs {package}, which is not installed: pip install 'emage[pipelines]'\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_an_interrupt_ends_with_130(monkeypatch, run_command):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_load", lambda place: config.DemoConfig if "config" in place else interrupted)
    done = run_command("demo")
    assert (done.returncode, done.stderr) == (130, "stopped; the same command resumes\n")


def test_every_pipeline_is_the_command_of_its_name():
    """As text, since each runs its program."""
    for file in PIPELINES.glob("*.py"):
        calls = [ast.unparse(node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert f"commands.run('{file.stem}', sys.argv[1:])" in calls
        assert file.stem in commands.COMMANDS


def test_help_does_not_import_pytorch_ray_or_pandas():
    """Neither `emage --help` nor a command's own waits for PyTorch, Ray or pandas."""
    code = """
import sys
from emage import commands
commands.main(["--help"])
for name in ("train", "doctor"):
    try:
        commands.main([name, "--help"])
    except SystemExit:
        pass
assert not {"torch", "ray", "pandas", "transformers"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("key=value ...") == 3, done.stderr
