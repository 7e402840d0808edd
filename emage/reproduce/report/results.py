"""Results of a study as rows of numbers, from which tables, charts and findings are made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from emage.config import EvaluateConfig
from emage.reproduce.experiments import Experiment, in_dependency_order, read_result
from emage.reproduce.paper_numbers import NO_NUMBERS, OtherModel, PaperNumbers
from emage.reproduce.studies import Study, TableRow
from emage.utils import manifest


@dataclass(frozen=True)
class ReportedMetric:
    """A metric that has a column in the tables.

    Args:
        name: Its key in the results of an evaluation.
        label: Its name in tables and charts.
        lower_is_better: Direction of the comparison.
        is_fraction: Its values are in [0, 1] and shown in per cent.
        unit: On the axis of a chart.
    """

    name: str
    label: str
    lower_is_better: bool
    is_fraction: bool = False
    unit: str = ""

    def text(self, value: float) -> str:
        """Return the value as it is printed."""
        return f"{value:.1%}" if self.is_fraction else f"{value:.4g}"

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` is better than `b`; False if they are equal."""
        return a < b if self.lower_is_better else a > b

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"


# In the order of the columns. Other metrics of an evaluation are in its own report.
REPORTED_METRICS = (
    ReportedMetric("fid", "FID", True, unit="FID"),
    ReportedMetric("frechet_inception_unpublished", "Frechet distance (unpublished Inception)", True, unit="distance"),
    ReportedMetric("frechet_tokenizer", "Frechet distance (tokenizer)", True, unit="distance"),
    ReportedMetric("fid_first", "FID, unranked", True, unit="FID"),
    ReportedMetric("clip_score", "CLIP score", False, unit="score"),
    ReportedMetric("objects_right", "both objects correct", False, is_fraction=True),
    ReportedMetric("all_right", "all correct", False, is_fraction=True),
    ReportedMetric("loss", "loss of the last 100 steps", True, unit="nats per token"),  # of Figure 3
    ReportedMetric("psnr", "PSNR", False, unit="dB"),  # of Table 2, as is the next
    ReportedMetric("lpips", "LPIPS", True, unit="distance"),
)


@dataclass(frozen=True)
class RowResults:
    """Results of one table row.

    Args:
        key: The name by which findings.py looks it up.
        label: The name in the table.
        paper: The paper's numbers.
        values: Our values by metric, one per seed.
        latency: The result of `latency.measure`.
    """

    key: str
    label: str
    paper: PaperNumbers = NO_NUMBERS
    values: dict[str, list[float]] = field(default_factory=dict)
    latency: dict[str, Any] | None = None

    def span(self, metric: str) -> tuple[float, float, float]:
        """Return mean, minimum and maximum over the seeds."""
        values = self.values[metric]
        return mean(values), min(values), max(values)

    def as_json(self) -> dict[str, Any]:
        """Return the row of NAME.json."""
        paper = self.paper._asdict()
        return {"key": self.key, "label": self.label, "known": paper, "figures": self.values, "latency": self.latency}


@dataclass(frozen=True)
class Results:
    """Results of one study."""

    name: str
    title: str
    scale: str
    rows: list[RowResults]
    others: tuple[OtherModel, ...] = ()
    notes: tuple[str, ...] = ()
    made_by: dict[str, Any] = field(default_factory=dict)  # settings, machines, versions, commits

    @property
    def metrics(self) -> list[ReportedMetric]:
        """The metrics that at least one row has."""
        return [metric for metric in REPORTED_METRICS if any(metric.name in row.values for row in self.rows)]

    def row(self, key: str) -> RowResults | None:
        """Return the row of this key; None if the study has no such row."""
        return next((row for row in self.rows if row.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """Return the contents of NAME.json."""
        return {
            "name": self.name,
            "title": self.title,
            "scale": self.scale,
            "rows": [row.as_json() for row in self.rows],
            "others": [other._asdict() for other in self.others],
            "notes": self.notes,
            "made_by": self.made_by,
        }


def gather(study: Study, output: Path, scale: str, settings: dict[str, Any]) -> Results:
    """Return the results of a study whose experiments are all finished.

    Args:
        output: The folder of the experiments.
        settings: Descriptions of the settings, to which machines, versions, commits and data are added.
    """
    rows = [_row(row, output) for row in study.rows]
    made_by = {**settings, **_made_by(study, output)}
    return Results(study.name, study.title, scale, rows, study.others, study.notes, made_by)


def _row(row: TableRow, output: Path) -> RowResults:
    by_seed = [_result_values(experiment, output) for experiment in row.evaluations]
    # A metric that some seeds lack would give a mean over fewer seeds: it is left out.
    names = [name for name in (by_seed[0] if by_seed else ()) if all(name in values for values in by_seed)]
    by_metric = {name: [values[name] for values in by_seed] for name in names}
    return RowResults(
        row.key, row.label, row.paper, by_metric, _result_values(row.latency, output) if row.latency else None
    )


def _result_values(experiment: Experiment, output: Path) -> dict[str, Any]:
    return finished(experiment, output)["figures"]


def _made_by(study: Study, output: Path) -> dict[str, list[str]]:
    """Return the different machines, versions, commits and data of the experiments, which may have run at any time."""
    found: dict[str, list[str]] = {}
    sources = [finished(experiment, output)["made_by"] for experiment in experiments_of(study)]
    evaluations = [one for row in study.rows for one in row.evaluations if isinstance(one.config, EvaluateConfig)]
    sources += [_evaluated_with(Path(one.config.output)) for one in evaluations]
    for key, value in (item for source in sources for item in source.items()):
        if value not in found.setdefault(key, []):
            found[key].append(value)
    timings = [_result_values(row.latency, output) for row in study.rows if row.latency]
    if timings:
        loads = [timing["load"] for timing in timings if "load" in timing]
        load = [f"load of the machine during the timing {min(loads):.1f} to {max(loads):.1f}"] if loads else []
        found["latency taken on"] = [*dict.fromkeys(timing["device"] for timing in timings), *load]
    return found


def _evaluated_with(output: Path) -> dict[str, str]:
    """Return captions, reference images, networks and warnings from an evaluation's own report."""
    report = manifest.read_json(output / "report.json")
    made_by = report["made_by"]
    described = {"captions": f"{report['captions']:,}, sha256 {made_by['captions']['sha256'][:8]}"}
    if reference := made_by.get("reference"):
        place, sha256 = reference["place"], reference["sha256"][:8]
        kind = "captioned images" if reference.get("images") == "captioned" else "images"
        described["reference"] = f"{reference['count']:,} {kind} of {place}, sha256 {sha256}"
    for name, metadata in made_by["judges"].items():
        network = metadata.get("network") or metadata["model"]
        described[f"judge {name}"] = f"{network}; {metadata['mode']}; weights sha256 {metadata['weights_sha256'][:8]}"
    return described | {f"beware {i}": line for i, line in enumerate(report["warnings"], 1)}


def experiments_of(study: Study) -> Sequence[Experiment]:
    """Return the experiments of a study and those that they need, each once."""
    timings = [row.latency for row in study.rows if row.latency]
    evaluations = [experiment for row in study.rows for experiment in row.evaluations]
    single = [study.single] if study.single else []
    return in_dependency_order([*evaluations, *study.curves, *timings, *single])


def finished(experiment: Experiment, output: Path) -> dict[str, Any]:
    """Return result.json of an experiment that is finished."""
    record = read_result(experiment, output)
    assert record is not None, f"{experiment.name} is not finished"
    return record
