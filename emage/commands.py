"""The command `emage`: every program by name. `emage COMMAND --help` lists its settings.

    emage train demo data.path=runs/demo/ingest/tokens run.output=runs/my_model
    emage --help

pipelines/*.py are the same programs as files, for `ray job submit`. A program's module is imported after its
settings have been checked: --help and a mistyped key need neither PyTorch nor Ray.
"""

import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emage import __version__, config, short_commands
from emage.config.presets import presets
from emage.utils.errors import exit_on_bad_input


@dataclass(frozen=True)
class Command:
    """A program. `function` is called with its settings or, if it reads positional arguments, with the command line."""

    summary: str
    function: str  # module:function
    settings: str  # module:dataclass
    resumes: bool = False  # if the same command is run again
    words: Mapping[str, str] = field(default_factory=dict)  # positional arguments: name -> meaning
    path: str = ""  # the key that a path, a word that is no preset, sets
    defaults: tuple[str, ...] = ()  # key=value of a command line without any, with the preset "demo"


COMMANDS = {
    "ingest": Command(
        "images, or a table of image URLs -> token table",
        "emage.on_ray.ingest.driver:ingest",
        "emage.config:IngestConfig",
        resumes=True,
        path="source.table",
        defaults=("output=runs/first/ingest",),
    ),
    "train": Command(
        "token table -> checkpoint",
        "emage.on_ray.training.driver:train",
        "emage.config:TrainConfig",
        resumes=True,
        defaults=("data.path=runs/first/ingest/tokens", "run.output=runs/first/train"),
    ),
    "evaluate": Command(
        "checkpoint + captions -> images, FID and others",
        "emage.on_ray.evaluation.driver:evaluate",
        "emage.config:EvaluateConfig",
        resumes=True,
    ),
    "serve": Command("checkpoint -> HTTP endpoint", "emage.on_ray.serving.driver:serve", "emage.config:ServeConfig"),
    "demo": Command(
        "all of them on this machine", "emage.on_ray.programs.demo:demo", "emage.config:DemoConfig", resumes=True
    ),
    "reproduce": Command(
        "the paper's tables and figures",
        "emage.on_ray.programs.reproduce:reproduce",
        "emage.config:ReproduceConfig",
        resumes=True,
    ),
    "doctor": Command(
        "check this machine, its cluster and its services before the first job",
        "emage.on_ray.programs.doctor:run",
        "emage.config:DoctorConfig",
    ),
    "inspect": Command(
        "token table -> statistics and sample images",
        "emage.data.inspect_tokens:main",
        "emage.config:InspectionConfig",
        words={"PATH": "The token table: a folder of parquet files, or one file (the same as path=PATH)."},
    ),
    "curves": Command(
        "training runs -> their learning curves",
        "emage.training.plot_curves:main",
        "emage.config:CurvesConfig",
        words={"RUN [RUN ...]": "Output folders of trainings (their run.output), each with a steps.jsonl."},
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `emage NAME ...`. Exit with 2 on bad input, after one line; with 130 if it was interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    name, *rest = words
    if name in ("-h", "--help", "help"):
        config.print_help(usage())
    elif name in ("-V", "--version"):
        print(f"emage {__version__}")
    elif name in COMMANDS:
        run(name, rest)
    else:
        print(f"error: unknown command {name!r}{config.nearest(name, list(COMMANDS))} (emage --help)", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """Return the text of `emage --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Text-to-image in parallel: from a table of image URLs to a served model.",
            "",
            "usage: emage COMMAND [PRESET] key=value ...",
            "       emage ingest PATH     images, archives or tables; then `emage train`: a first small model",
            "       emage COMMAND --help         its presets, and every key with its default and meaning",
            "       emage COMMAND --help KEY     one key: range, unit, value in each preset, source",
            "       emage --version",
            "",
            *lines,
        ]
    )


def run(name: str, argv: Sequence[str]) -> None:
    """Print the settings of a command, without the secrets in their addresses, and run it."""
    command = COMMANDS[name]
    try:
        with exit_on_bad_input():
            wants_help = bool({"-h", "--help"} & set(argv))
            if command.words and not wants_help:
                _load(command.function)(argv)
                return
            program = _load(command.settings)
            if not wants_help:
                argv = _completed(name, program, argv)
            settings = config.parse(program, argv, f"emage {name}", command.words)
            print(config.to_yaml(settings, show_secrets=False), flush=True)
            _load(command.function)(settings)
    except ModuleNotFoundError as error:
        package = (error.name or "emage").partition(".")[0]
        if package == "emage":
            raise
        line = f"emage {name} needs {package}, which is not installed: pip install 'emage[pipelines]'"
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command resumes" if command.resumes else "stopped", file=sys.stderr)
        sys.exit(130)


def _completed(name: str, program: type, argv: Sequence[str]) -> Sequence[str]:
    """Return the long form of a command line; if it is another one, print it."""
    command = COMMANDS[name]
    completed = short_commands.complete(argv, presets(program), command.path, command.defaults)
    if completed != list(argv):
        print(f"# emage {name} {shlex.join(completed)}", flush=True)
    return completed


def _load(path: str) -> Any:
    """Return the object at module:name."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
