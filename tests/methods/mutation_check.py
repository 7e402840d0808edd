"""Do the fast tests of tests/methods notice a change of the code? Random mutants of emage/methods, by hand, not in CI.

    python tests/methods/mutation_check.py [SEED [COUNT]]

A mutant is one change of one expression: a comparison, an arithmetic or logical operator, a number, a sign, min or max.
It is written into a copy of the repository, in which the tests then run. Each line says which test failed first, or
that the mutant survived. Takes 10 to 30 minutes on two cores.
"""

import ast
import copy
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import open_clip  # noqa: F401 (imported once for all forks)
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401

ROOT = Path(__file__).parents[2]
COPIED = ("emage", "tests", "pyproject.toml")
COUNT, JOBS, TIMEOUT_S = 26, 2, 900
SLOW = "compiled or overfits"  # run last, and only against a mutant that survived the others
SELECTED = "not faults and not chaos and not gpu"
OPERATORS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "ceil": "floor", "floor": "ceil", "argmax": "argmin", "ones_like": "zeros_like"}


class Mutant(NamedTuple):
    """A change of one expression of a file."""

    file: Path  # below ROOT
    line: int
    before: str
    after: str
    code: str  # of the whole file


def mutants(file: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file: of the bodies of its functions, without annotations, assertions and errors."""
    tree = ast.parse((ROOT / file).read_text())
    nodes = [node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in _body(function)]
    for node in dict.fromkeys(nodes):
        for change in _changes(node):
            before, fields = ast.unparse(node), copy.copy(node.__dict__)
            node.__dict__.update(change)
            yield Mutant(file, node.lineno, before, ast.unparse(node), ast.unparse(tree))  # type: ignore[attr-defined]
            node.__dict__.update(fields)


def _body(function: ast.FunctionDef) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Assert | ast.Raise):
            continue
        if isinstance(node, ast.expr):
            yield node
        skipped = node.annotation if isinstance(node, ast.AnnAssign) else None
        waiting = [child for child in ast.iter_child_nodes(node) if child is not skipped] + waiting


def _changes(node: ast.AST) -> Iterator[dict[str, object]]:
    """Yield the fields of a node that a mutant has instead."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            yield {"ops": [OPERATORS[type(op)]()]}
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield {"op": OPERATORS[type(op)]()}
        case ast.UnaryOp(op=ast.USub()):
            yield {"op": ast.UAdd()}
        case ast.Constant(value=bool()):
            yield {"value": not node.value}
        case ast.Constant(value=int() | float()):
            yield {"value": node.value + 1}  # type: ignore[operator]
        case ast.Name(id=name) if name in NAMES:
            yield {"id": NAMES[name]}
        case ast.Attribute(attr=name) if name in NAMES:
            yield {"attr": NAMES[name]}


def failed_test(mutant: Mutant) -> str | None:
    """Return the first test that fails with this mutant, None if it survives."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            copied = shutil.copytree if source.is_dir() else shutil.copy
            copied(source, Path(folder) / name)
        (Path(folder) / mutant.file).write_text(mutant.code)
        for selected in (f"not ({SLOW})", SLOW):
            output = Path(folder) / "output.txt"
            # A fork of this process, which has imported the libraries: that takes longer than most tests.
            process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(folder, selected, output))
            process.start()
            process.join(TIMEOUT_S)
            if process.exitcode is None:
                process.kill()
                return "(it never ends)"
            if process.exitcode:
                found = re.search(r"^(?:FAILED|ERROR) (\S+)", output.read_text(), re.MULTILINE)
                return found[1] if found else output.read_text()[-300:]
    return None


def _run_tests(folder: str, selected: str, output: Path) -> None:
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.path.insert(0, folder)
    arguments = ["tests/methods", "-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", SELECTED, "-k", selected]
    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(int(code))


def main(seed: int = 0, count: int = COUNT) -> None:
    files = sorted((ROOT / "emage" / "methods").glob("*.py"))
    every = [mutant for file in files for mutant in mutants(file.relative_to(ROOT))]
    chosen = random.Random(seed).sample(every, count)
    print(f"seed {seed}: {count} of {len(every)} mutants", flush=True)
    killed = 0
    with ThreadPoolExecutor(JOBS) as pool:
        for mutant, test in zip(chosen, pool.map(failed_test, chosen), strict=True):
            killed += test is not None
            verdict = f"killed by {test}" if test else "SURVIVED"
            print(f"{mutant.file}:{mutant.line}  {mutant.before}  ->  {mutant.after}: {verdict}", flush=True)
    print(f"{killed} of {count} killed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
