"""Which trainings and measurements each table and figure of the paper is made of (Sec. 4), at either scale.

A study is a list of rows. Studies share cells: the models of Table 3 are those of Figure 3, and so are their images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from emage.config import Method, ReproduceConfig
from emage.reproduce import paper_numbers
from emage.reproduce.experiments import Cell, in_order
from emage.reproduce.paper_numbers import UNKNOWN, Known, Other
from emage.reproduce.recipes import (
    WARM_START,
    evaluation,
    is_small,
    latency,
    strips,
    tokenizer_figures,
    training,
    uncached,
)

NAMES: dict[Method, str] = {
    "fully_nar": "Fully non-autoregressive",
    "iterative1": "Iterative #1",
    "iterative2": "Iterative #2",
    "iterative3": "Iterative #3",
    "autoregressive": "Autoregressive",
}
ITERATIVE: tuple[Method, ...] = ("iterative1", "iterative2", "iterative3")
SMALL_SEEDS = 3


@dataclass(frozen=True)
class Row:
    """A line of a table: what the paper says of it, and ours: one evaluation a seed, one timing."""

    key: str  # what findings ask for it by
    label: str
    known: Known = UNKNOWN
    evaluations: tuple[Cell, ...] = ()
    latency: Cell | None = None


@dataclass(frozen=True)
class Study:
    name: str
    title: str
    rows: tuple[Row, ...] = ()
    others: tuple[Other, ...] = ()  # rows of other people's models
    curves: tuple[Cell, ...] = ()  # trainings whose losses are drawn
    single: Cell | None = None  # the one cell of table2 and figure5
    notes: tuple[str, ...] = ()


def cells(studies: Sequence[Study]) -> list[Cell]:
    """All that the studies need, each once, in the order of the work.

    Seed after seed, so that a command that is stopped leaves whole seeds. Timings last: less else goes on by then.
    """
    rows = [row for study in studies for row in study.rows]
    curves = [cell for study in studies for cell in study.curves]
    rated = [cell for of_seed in zip_longest(*(row.evaluations for row in rows)) for cell in of_seed if cell]
    singles = [study.single for study in studies if study.single]
    return in_order([*rated, *curves, *singles, *(row.latency for row in rows if row.latency)])


def of(config: ReproduceConfig) -> list[Study]:
    """The studies that a command asks for."""
    known = {
        "table2": _table2,
        "table3": _table3,
        "table4": _table4,
        "table5": _table5,
        "table6": _table6,
        "figure3": _figure3,
        "figure4": _figure4,
        "figure5": _figure5,
    }
    return [make(config) for make in (known.values() if config.what == "all" else [known[config.what]])]


# --- Studies ----------------------------------------------------------------------------------------------------------


def _table2(config: ReproduceConfig) -> Study:
    return Study("table2", "Table 2: tokenizers", single=tokenizer_figures(config))


def _table3(config: ReproduceConfig) -> Study:
    rows = [_method_row(config, method, known) for method, known in paper_numbers.TABLE3.items()]
    slow = uncached(config, training(config, "autoregressive", 0))
    rows.append(Row("autoregressive/uncached", "Autoregressive, without its cache", Known(None, 48.0), (), slow))
    return Study("table3", "Table 3: the five methods", tuple(rows), notes=(_CACHE_NOTE,))


def _table4(config: ReproduceConfig) -> Study:
    rows = [_method_row(config, method, known, long=True) for method, known in paper_numbers.TABLE4.items()]
    return Study(
        "table4", "Table 4: main results", tuple(rows), others=paper_numbers.TABLE4_OTHERS, notes=(_CACHE_NOTE,)
    )


def _table5(config: ReproduceConfig) -> Study:
    rows = []
    for (method, text), fid in paper_numbers.TABLE5.items():
        models = [training(config, method, seed, text=text) for seed in _few_seeds(config)]
        rated = tuple(evaluation(config, model) for model in models)
        rows.append(Row(f"{method}/{text}", f"{NAMES[method]}, {text.upper()}", Known(fid), rated))
    note = (
        "In small neither encoder is pretrained: both are four layers of random weights, CLIP's with its words, BERT's "
        "with letters in their place. This says nothing about CLIP's images and BERT's texts, the paper's point."
    )
    return Study("table5", "Table 5: BERT against CLIP", tuple(rows), notes=(note,) if is_small(config) else ())


def _table6(config: ReproduceConfig) -> Study:
    rows = []
    models = [training(config, "iterative3", seed, long=True) for seed in _seeds(config)]
    for steps, known in paper_numbers.TABLE6.items():
        rated = tuple(evaluation(config, model, steps=steps) for model in models)
        timed = latency(config, models[0], steps=steps)
        rows.append(Row(f"iterative3/steps={steps}", f"{steps} iterations", known, rated, timed))
    return Study("table6", "Table 6: iterations of #3", tuple(rows))


def _figure3(config: ReproduceConfig) -> Study:
    methods = ("fully_nar", *ITERATIVE)
    curves = [training(config, method, seed) for seed in _seeds(config) for method in methods]
    note = (
        "The losses are not all of one kind: fully non-autoregressive and #3 are scored on all positions, #1 and #2 on "
        "the masked ones."
    )
    warm = f"In small, #2 and #3 are trained as #1 for the first {WARM_START:.0%} of the steps (dotted line)."
    notes = (note, warm) if is_small(config) else (note,)
    return Study("figure3", "Figure 3: learning curves", curves=tuple(curves), notes=notes)


def _figure4(config: ReproduceConfig) -> Study:
    rows = []
    for method in ITERATIVE:
        for mask in ("linear", "cosine"):
            models = [training(config, method, seed, mask=mask) for seed in _few_seeds(config)]
            rated = tuple(evaluation(config, model) for model in models)
            rows.append(Row(f"{method}/train={mask}", f"{NAMES[method]}, trained with {mask} masks", UNKNOWN, rated))
    for schedule in ("cosine", "linear"):
        models = [training(config, "iterative3", seed) for seed in _seeds(config)]
        rated = tuple(evaluation(config, model, schedule=schedule) for model in models)
        rows.append(Row(f"iterative3/draw={schedule}", f"Iterative #3, drawn with {schedule} steps", UNKNOWN, rated))
    note = "The paper shows a drawing without numbers: linear is lower for all three methods."
    return Study("figure4", "Figure 4: masking strategies", tuple(rows), notes=(note,))


def _figure5(config: ReproduceConfig) -> Study:
    return Study(
        "figure5",
        "Figure 5: images forming",
        single=strips(config, training(config, "iterative3", 0, long=True)),
    )


_CACHE_NOTE = (
    "The paper's 48 s of the autoregressive model are 47 ms a token, and it does not say whether keys and values are "
    "cached: ours is timed both ways."
)


def _method_row(config: ReproduceConfig, method: Method, known: Known, long: bool = False) -> Row:
    models = [training(config, method, seed, long=long) for seed in _seeds(config)]
    rated = tuple(evaluation(config, model) for model in models)
    return Row(method, NAMES[method], known, rated, latency(config, models[0]))


# --- Seeds ------------------------------------------------------------------------------------------------------------


def num_seeds(config: ReproduceConfig) -> int:
    return config.seeds or (SMALL_SEEDS if is_small(config) else 1)


def _seeds(config: ReproduceConfig) -> Sequence[int]:
    return range(num_seeds(config))


def _few_seeds(config: ReproduceConfig) -> Sequence[int]:
    """Of Figure 4 and Table 5, which need trainings of their own: one, in small."""
    return range(1) if is_small(config) else _seeds(config)
