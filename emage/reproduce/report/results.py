"""What a study's cells found, as rows of numbers: what tables, charts and findings are made of."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from emage.reproduce import experiments
from emage.reproduce.paper_numbers import UNKNOWN, Known, Other
from emage.reproduce.studies import Row, Study
from emage.utils import manifest


@dataclass(frozen=True)
class Measure:
    """A figure of an evaluation: how it is called, and which way is better."""

    name: str
    label: str
    lower_is_better: bool
    is_share: bool = False  # in [0, 1], shown in per cent
    unit: str = ""  # on the axis of a chart

    def text(self, value: float) -> str:
        return f"{value:.1%}" if self.is_share else f"{value:.4g}"

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`. Of two equal ones, neither is."""
        return a < b if self.lower_is_better else a > b

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"


# In the order of the columns. Whatever else an evaluation found is in its own report.
MEASURES = (
    Measure("fid", "FID", True, unit="FID"),
    Measure("frechet_inception_unpublished", "Frechet distance (unpublished Inception)", True, unit="distance"),
    Measure("frechet_tokenizer", "Frechet distance (tokenizer)", True, unit="distance"),
    Measure("fid_first", "FID, un-ranked", True, unit="FID"),
    Measure("clip_score", "CLIP score", False, unit="score"),
    Measure("objects_right", "both objects right", False, is_share=True),
    Measure("psnr", "PSNR", False, unit="dB"),  # of Table 2, as is the next
    Measure("lpips", "LPIPS", True, unit="distance"),
)


@dataclass(frozen=True)
class Found:
    """One row: the paper's figures and ours, by seed."""

    key: str
    label: str
    known: Known = UNKNOWN
    figures: dict[str, list[float]] = field(default_factory=dict)  # by measure, one a seed
    latency: dict[str, Any] | None = None  # what latency.of_checkpoint says

    def span(self, measure: str) -> tuple[float, float, float]:
        """Mean, minimum and maximum over the seeds."""
        values = self.figures[measure]
        return mean(values), min(values), max(values)


@dataclass(frozen=True)
class Results:
    """All that a study found."""

    name: str
    title: str
    scale: str
    rows: list[Found]
    others: tuple[Other, ...] = ()
    notes: tuple[str, ...] = ()
    made_by: dict[str, Any] = field(default_factory=dict)  # settings, machines, versions, commits

    @property
    def measures(self) -> list[Measure]:
        return [measure for measure in MEASURES if any(measure.name in row.figures for row in self.rows)]

    def row(self, key: str) -> Found | None:
        return next((row for row in self.rows if row.key == key), None)

    def as_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "known": row.known._asdict()} for row in self.rows]
        others = [other._asdict() for other in self.others]
        return {**asdict(self), "rows": rows, "others": others}


def gather(study: Study, output: Path, scale: str, settings: dict[str, Any]) -> Results:
    """The results of a study whose cells are all finished. `settings`: what is told of how they were made."""
    rows = [_row(row, output) for row in study.rows]
    made_by = {**settings, **_made_by(study, output)}
    return Results(study.name, study.title, scale, rows, study.others, study.notes, made_by)


def _row(row: Row, output: Path) -> Found:
    of_seeds = [_figures(cell, output) for cell in row.evaluations]
    # A figure that not every seed has says nothing of the row.
    names = [name for name in (of_seeds[0] if of_seeds else ()) if all(name in figures for figures in of_seeds)]
    figures = {name: [of_seed[name] for of_seed in of_seeds] for name in names}
    return Found(row.key, row.label, row.known, figures, _figures(row.latency, output) if row.latency else None)


def _figures(cell: experiments.Cell, output: Path) -> dict[str, Any]:
    return _finished(cell, output)["figures"]


def _made_by(study: Study, output: Path) -> dict[str, list[str]]:
    """Machines, versions and commits of all cells, each once: results may have been made at different times."""
    found: dict[str, list[str]] = {}
    facts = [_finished(cell, output)["made_by"] for cell in cells_of(study)]
    facts += [_judged_by(Path(cell.config.output)) for row in study.rows for cell in row.evaluations]
    for key, value in (item for one in facts for item in one.items()):
        if value not in found.setdefault(key, []):
            found[key].append(value)
    timed = [_figures(row.latency, output) for row in study.rows if row.latency]
    if timed:
        loads = [figures["load"] for figures in timed if "load" in figures]
        busy = [f"load of the machine meanwhile {min(loads):.1f} to {max(loads):.1f}"] if loads else []
        found["latency taken on"] = [*dict.fromkeys(figures["device"] for figures in timed), *busy]
    return found


def _judged_by(output: Path) -> dict[str, str]:
    """What an evaluation's own report says of its captions, reference, networks; and what it warns of."""
    report = manifest.read_json(output / "report.json")
    made_by = report["made_by"]
    told = {"captions": f"{report['captions']:,}, sha256 {made_by['captions']['sha256'][:8]}"}
    if real := made_by.get("reference"):
        told["reference"] = f"{real['count']:,} images of {real['place']}, sha256 {real['sha256'][:8]}"
    for name, facts in made_by["judges"].items():
        network = facts.get("network") or facts["model"]
        told[f"judge {name}"] = f"{network}; {facts['mode']}; weights sha256 {facts['weights_sha256'][:8]}"
    return told | {f"beware {i}": line for i, line in enumerate(report["warnings"], 1)}


def cells_of(study: Study) -> Sequence[experiments.Cell]:
    """All that a study is made of, and what those cells need, each once."""
    timed = [row.latency for row in study.rows if row.latency]
    rated = [cell for row in study.rows for cell in row.evaluations]
    return experiments.in_order([*rated, *study.curves, *timed, *([study.single] if study.single else [])])


def _finished(cell: experiments.Cell, output: Path) -> dict[str, Any]:
    record = experiments.result(cell, output)
    assert record is not None, f"{cell.name} is not finished"
    return record
