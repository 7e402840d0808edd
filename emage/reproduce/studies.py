"""Studies: the experiments that each table and figure of the paper needs (Sec. 4), at either scale.

A study is a list of table rows. Studies share experiments: the models of Table 3 are also those of Figure 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from emage.config import Method, ReproduceConfig
from emage.reproduce import paper_numbers
from emage.reproduce.experiments import Experiment, in_dependency_order
from emage.reproduce.paper_numbers import NO_NUMBERS, OtherModel, PaperNumbers
from emage.reproduce.recipes import (
    WARM_START,
    evaluation,
    filmstrips,
    is_small,
    latency,
    method_grid,
    tokenizer_comparison,
    training,
    uncached,
)

# In tables and charts, with the paper's names of the iterative methods.
METHOD_LABELS: dict[Method, str] = {
    "fully_nar": "Fully non-autoregressive",
    "iterative1": "iterative1 (#1)",
    "iterative2": "iterative2 (#2)",
    "iterative3": "iterative3 (#3)",
    "autoregressive": "Autoregressive",
    "parallel_autoregressive": "Parallel autoregressive (ours)",
}
ITERATIVE: tuple[Method, ...] = ("iterative1", "iterative2", "iterative3")
SMALL_SEEDS = 5
DECODING_STEPS = 16  # the paper's


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the paper's numbers, and the experiments that give ours.

    Args:
        key: The name by which findings.py looks it up.
        label: The name in the table.
        paper: The paper's numbers.
        evaluations: One per seed; in Figure 3 trainings, whose number is their last loss.
        latency: One timing, of the first seed's model.
    """

    key: str
    label: str
    paper: PaperNumbers = NO_NUMBERS
    evaluations: tuple[Experiment, ...] = ()
    latency: Experiment | None = None


@dataclass(frozen=True)
class Study:
    """One table or figure of the paper: its rows or its only experiment, and its notes."""

    name: str
    title: str
    rows: tuple[TableRow, ...] = ()
    others: tuple[OtherModel, ...] = ()
    curves: tuple[Experiment, ...] = ()  # trainings whose losses are plotted
    single: Experiment | None = None  # the only experiment of table2 and figure5, the grid of methods
    notes: tuple[str, ...] = ()


def experiments_of(studies: Sequence[Study]) -> list[Experiment]:
    """Return the experiments that the studies need, each once, in the order in which they should run.

    Seed by seed, so that a stopped command leaves complete seeds. Timings come last, when less else is running.
    """
    rows = [row for study in studies for row in study.rows]
    curves = [experiment for study in studies for experiment in study.curves]
    by_seed = zip_longest(*(row.evaluations for row in rows))
    evaluations = [experiment for one_seed in by_seed for experiment in one_seed if experiment]
    singles = [study.single for study in studies if study.single]
    return in_dependency_order([*evaluations, *curves, *singles, *(row.latency for row in rows if row.latency)])


def requested(config: ReproduceConfig) -> list[Study]:
    """Return the studies named by `config.what`."""
    makers = {
        "table2": _table2,
        "table3": _table3,
        "table4": _table4,
        "table5": _table5,
        "table6": _table6,
        "figure3": _figure3,
        "figure4": _figure4,
        "figure5": _figure5,
    }
    if config.what == "methods":
        return [_methods(config)]
    return [make(config) for make in (makers.values() if config.what == "all" else [makers[config.what]])]


# --- Studies ----------------------------------------------------------------------------------------------------------


def _table2(config: ReproduceConfig) -> Study:
    return Study("table2", "Table 2: tokenizers", single=tokenizer_comparison(config))


def _table3(config: ReproduceConfig) -> Study:
    rows = [_method_row(config, method, paper) for method, paper in paper_numbers.TABLE3.items()]
    slow = uncached(config, training(config, "autoregressive", 0))
    rows.append(
        TableRow("autoregressive/uncached", "Autoregressive, without its cache", PaperNumbers(None, 48.0), (), slow)
    )
    return Study("table3", "Table 3: the five methods", tuple(rows), notes=(_CACHE_NOTE,))


def _table4(config: ReproduceConfig) -> Study:
    rows = [_method_row(config, method, paper, long=True) for method, paper in paper_numbers.TABLE4.items()]
    same = "With scale=small these are the models of Table 3: all are trained equally long."
    notes = (_CACHE_NOTE, same) if is_small(config) else (_CACHE_NOTE,)
    return Study("table4", "Table 4: main results", tuple(rows), others=paper_numbers.TABLE4_OTHERS, notes=notes)


def _table5(config: ReproduceConfig) -> Study:
    rows = []
    for (method, text), fid in paper_numbers.TABLE5.items():
        models = [training(config, method, seed, text=text) for seed in _few_seeds(config)]
        evaluations = tuple(evaluation(config, model) for model in models)
        rows.append(
            TableRow(f"{method}/{text}", f"{METHOD_LABELS[method]}, {text.upper()}", PaperNumbers(fid), evaluations)
        )
    note = (
        "With scale=small neither encoder is pretrained: both are four layers of random weights, CLIP's with a "
        "vocabulary of words, BERT's with one of letters. The paper's point, pretraining on image-text pairs against "
        "pretraining on text, is not tested."
    )
    return Study("table5", "Table 5: BERT against CLIP", tuple(rows), notes=(note,) if is_small(config) else ())


def _table6(config: ReproduceConfig) -> Study:
    rows = []
    models = [training(config, "iterative3", seed, long=True) for seed in _seeds(config)]
    for steps, paper in paper_numbers.TABLE6.items():
        evaluations = tuple(evaluation(config, model, steps=steps) for model in models)
        timing = latency(config, models[0], steps=steps)
        rows.append(TableRow(f"iterative3/steps={steps}", f"{steps} decoding steps", paper, evaluations, timing))
    return Study("table6", "Table 6: decoding steps of iterative3", tuple(rows))


def _figure3(config: ReproduceConfig) -> Study:
    methods: tuple[Method, ...] = ("fully_nar", *ITERATIVE)
    models: dict[Method, list[Experiment]] = {
        m: [training(config, m, seed) for seed in _seeds(config)] for m in methods
    }
    rows = [TableRow(method, METHOD_LABELS[method], NO_NUMBERS, tuple(found)) for method, found in models.items()]
    curves = [model for found in models.values() for model in found]
    note = (
        "The losses are not the same quantity: fully_nar and iterative3 are scored on all positions, iterative1 and "
        "iterative2 on the masked ones."
    )
    warm = (
        "With scale=small, iterative2 and iterative3 are trained as iterative1 for the first "
        f"{WARM_START:.0%} of the steps (dotted line)."
    )
    notes = (note, warm) if is_small(config) else (note,)
    return Study("figure3", "Figure 3: learning curves", tuple(rows), curves=tuple(curves), notes=notes)


def _figure4(config: ReproduceConfig) -> Study:
    rows = []
    for method in ITERATIVE:
        for mask in ("linear", "cosine"):
            models = [training(config, method, seed, mask=mask) for seed in _few_seeds(config)]
            evaluations = tuple(evaluation(config, model) for model in models)
            label = f"{METHOD_LABELS[method]}, trained with {mask} masks"
            rows.append(TableRow(f"{method}/train={mask}", label, NO_NUMBERS, evaluations))
    for schedule in ("cosine", "linear"):
        models = [training(config, "iterative3", seed) for seed in _seeds(config)]
        evaluations = tuple(evaluation(config, model, schedule=schedule) for model in models)
        label = f"iterative3 (#3), {schedule} schedule of decoding"
        rows.append(TableRow(f"iterative3/draw={schedule}", label, NO_NUMBERS, evaluations))
    note = "The paper shows a plot without numbers: linear is lower for all three methods."
    return Study("figure4", "Figure 4: masking strategies", tuple(rows), notes=(note,))


def _figure5(config: ReproduceConfig) -> Study:
    return Study(
        "figure5",
        "Figure 5: images forming",
        single=filmstrips(config, training(config, "iterative3", 0, long=True)),
    )


def _methods(config: ReproduceConfig) -> Study:
    """Return the study that the paper does not have: all methods, in both orders of generation."""

    def row(
        key: str, label: str, method: Method, order: str = "confidence", steps: int = DECODING_STEPS, **recipe: Any
    ) -> TableRow:
        models = [training(config, method, seed, **recipe) for seed in _seeds(config)]
        evaluations = [evaluation(config, model, steps=steps, order=order) for model in models]
        return TableRow(key, label, NO_NUMBERS, tuple(evaluations))

    rows = [row(method, METHOD_LABELS[method], method) for method in METHOD_LABELS]
    for method in ITERATIVE:
        rows.append(row(f"{method}/halton", f"{METHOD_LABELS[method]}, Halton order", method, "halton"))
    label = f"{METHOD_LABELS['iterative1']}, Halton order in training and generation"
    rows.append(row("iterative1/masks=halton", label, "iterative1", "halton", mask_order="halton"))
    key: Method = "parallel_autoregressive"
    rows.append(row(f"{key}/groups=cosine", f"{METHOD_LABELS[key]}, cosine groups", key, groups="cosine"))
    rows.append(row(f"{key}/half", f"{METHOD_LABELS[key]}, half of the steps", key, half=True))
    for steps in paper_numbers.TABLE6:
        if steps != DECODING_STEPS:
            rows.append(row(f"{key}/steps={steps}", f"{METHOD_LABELS[key]}, {steps} decoding steps", key, steps=steps))
            label = f"{METHOD_LABELS['iterative3']}, Halton order, {steps} decoding steps"
            rows.append(row(f"iterative3/halton/steps={steps}", label, "iterative3", "halton", steps=steps))
    models = {METHOD_LABELS[method]: training(config, method, 0) for method in METHOD_LABELS}
    curves = [training(config, method, seed) for method in METHOD_LABELS for seed in _seeds(config)]
    notes = (
        "Ours, not a table of the paper. Unless the row states otherwise: the paper's order, by confidence. fully_nar "
        "and autoregressive have no order; parallel_autoregressive generates in Halton order.",
        "A training step of parallel_autoregressive has twice the positions of one of autoregressive: with half of the "
        "steps it has the same training compute.",
    )
    title = "The six methods, equally long trained, in both orders"
    single = method_grid(config, models)
    return Study("methods", title, tuple(rows), curves=tuple(curves), single=single, notes=notes)


_CACHE_NOTE = (
    "The paper's 48 s of the autoregressive model are 47 ms per token, and the paper does not state whether keys and "
    "values are cached: ours is timed both ways."
)


def _method_row(config: ReproduceConfig, method: Method, paper: PaperNumbers, long: bool = False) -> TableRow:
    models = [training(config, method, seed, long=long) for seed in _seeds(config)]
    evaluations = tuple(evaluation(config, model) for model in models)
    return TableRow(method, METHOD_LABELS[method], paper, evaluations, latency(config, models[0]))


# --- Seeds ------------------------------------------------------------------------------------------------------------


def num_seeds(config: ReproduceConfig) -> int:
    """Return `config.seeds`, or the default of the scale: SMALL_SEEDS, or one at scale=paper."""
    return config.seeds or (SMALL_SEEDS if is_small(config) else 1)


def _seeds(config: ReproduceConfig) -> Sequence[int]:
    return range(num_seeds(config))


def _few_seeds(config: ReproduceConfig) -> Sequence[int]:
    """Return the seeds of the extra trainings of Figure 4 and Table 5: one with scale=small."""
    return range(1) if is_small(config) else _seeds(config)
