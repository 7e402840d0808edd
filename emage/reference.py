"""docs/configuration.md, made from the settings' own descriptions: every key, preset and environment variable.

python -m emage.reference > docs/configuration.md
"""

import importlib
from collections.abc import Iterable, Iterator

from emage.commands import COMMANDS, Command
from emage.config import environment
from emage.config.cli import format_value
from emage.config.environment import Variable
from emage.config.fields import Leaf, Section, describe_allowed, first_paragraph, sections
from emage.config.presets import SUMMARIES, presets

_INTRODUCTION = """\
<!-- Made by `python -m emage.reference > docs/configuration.md` from emage/config: change it there. -->
# Configuration

Every program takes a preset, which is optional, and then any number of keys:

```sh
emage train demo data.path=runs/demo/ingest/tokens run.output=runs/my_model optim.steps=500
```

- A key on the command line wins over the preset, and the preset over the default. An unknown key, or a value that is
  not allowed, ends the program with one line before anything starts.
- Values are YAML: `null`, `true`, `1e-3`, `[a, b]` for lists. Put quotes around `[...]` if your shell expands brackets.
- `emage train --help` lists the keys, `emage train --help optim.lr` explains one: what is allowed, its unit, its
  value in each preset, its source.
- *Source* is where the default is from: a section of the paper that states the value, or ours.
- In Python, `emage.config.parse(TrainConfig, ["demo", "optim.steps=500"])` returns them as a frozen dataclass.
"""


def markdown() -> str:
    """Return the text of docs/configuration.md."""
    parts = [_INTRODUCTION]
    for name, command in COMMANDS.items():
        parts += _program(name, command)
    return "\n".join([*parts, *_environment()])


def _program(name: str, command: Command) -> Iterator[str]:
    module, _, attribute = command.settings.partition(":")
    program = getattr(importlib.import_module(module), attribute)
    named = presets(program)
    words = [*command.words, *(["[PRESET]"] if named else []), "KEY=VALUE ..."]
    yield f"## emage {name}\n"
    yield f"{first_paragraph(program)}\n"
    yield f"```sh\nemage {name} {' '.join(words)}\n```\n"
    for word, meaning in command.words.items():
        yield f"`{word}`: {meaning}\n"
    if named:
        yield f"### Presets of {name}\n"
        rows = [(f"`{preset}`", SUMMARIES[preset], _values(values)) for preset, values in named.items()]
        yield from _table(("preset", "meaning", "values"), rows)
    for section in sections(program):
        yield from _section(name, section)


def _values(values: dict[str, object]) -> str:
    return ", ".join(f"`{key}={format_value(value)}`" for key, value in values.items()) or "the defaults"


def _section(name: str, section: Section) -> Iterator[str]:
    if not section.leaves:
        return
    if section.key:
        yield f"### {name}: {section.key}\n"
        yield f"{section.summary}\n"
    else:
        yield f"### Settings of {name}\n"
    yield from _table(("key", "default", "meaning", "allowed", "source"), map(_row, section.leaves))


def _row(leaf: Leaf) -> tuple[str, ...]:
    key = f"`{leaf.key}.KEY`" if leaf.default == {} else f"`{leaf.key}`"
    default = format_value(leaf.default)
    if leaf.default == {}:
        default = ""
    elif default != "(required)":
        default = f"`{default}`"
    return key, default, leaf.setting.meaning, describe_allowed(leaf), leaf.setting.source


def _environment() -> Iterator[str]:
    groups = {
        "Read by Emage": (environment.READ, "if it is not set"),
        "Read by its libraries": (environment.READ_BY_LIBRARIES, "if it is not set"),
        "Set by Emage": (environment.SET_IF_ABSENT, "set to, unless it is set already"),
    }
    yield "## Environment variables\n"
    for title, (variables, last) in groups.items():
        yield f"### {title}\n"
        yield from _table(("variable", "used by", "meaning", last), map(_variable, variables))


def _variable(variable: Variable) -> tuple[str, ...]:
    return f"`{variable.name}`", variable.used_by, variable.meaning, variable.default


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    header = list(header)
    yield f"| {' | '.join(header)} |\n|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


if __name__ == "__main__":
    print(markdown(), end="")
