"""Part of benchmarks/emoji.py: the chart of distance against decoding steps, and the grid of images."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from emoji_data import SIDE, Emoji
from emoji_measure import ORDERS, read_image
from PIL import Image

from emage.methods import METHODS
from emage.reproduce.studies import METHOD_LABELS

COLUMNS = 8  # of the grid of images
GRID_STEPS = 16


def chart(path: Path, results: dict[str, Any]) -> None:
    """Plot the Frechet distance against decoding steps: a panel per order, a line per method."""
    figure, axes = plt.subplots(1, len(ORDERS), figsize=(11, 4.2), sharey=True, layout="constrained")
    for order, axis in zip(ORDERS, axes, strict=True):
        for i, method in enumerate(METHODS):
            rows = results["methods"].get(method, {}).get("generation", [])
            shown = [row for row in rows if row["order"] in (order, None)]
            if shown:
                values = [row["frechet"] for row in shown]
                axis.plot([row["steps"] for row in shown], values, "o-", color=f"C{i}", label=METHOD_LABELS[method])
        bound = results["bounds"]["reconstructions"]["frechet"]
        axis.axhline(bound, color="grey", linestyle=":", label="the real images, through the tokenizer")
        axis.set(title=f"order={order}", xlabel="decoding steps", xscale="log", yscale="log")
        ticks = sorted({row["steps"] for known in results["methods"].values() for row in known["generation"]})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("Frechet distance, tokenizer's features")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(f"Held-out emoji captions, one seed, {results['settings']['steps']:,} steps of training")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def grid(path: Path, results: dict[str, Any], held_out: Emoji, work: Path) -> None:
    """Show the same held-out captions and seeds for every method, below the real images."""
    chosen = np.linspace(0, len(held_out.captions) - 1, COLUMNS).round().astype(int).tolist()
    real = held_out.images.permute(0, 2, 3, 1).numpy()
    rows = [("real", [Image.fromarray(real[i]) for i in chosen])]
    for method, known in results["methods"].items():
        name, steps = _shown(known["generation"])
        images = [read_image(work / method / f"{name}.png", i, SIDE) for i in chosen]
        rows.append((f"{METHOD_LABELS[method]}\n{steps} steps", images))
    figure, axes = plt.subplots(
        len(rows), COLUMNS, figsize=(1.5 * COLUMNS + 1.5, 1.5 * len(rows) + 0.6), squeeze=False, layout="constrained"
    )
    for line, (label, images) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, interpolation="lanczos")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    for axis, i in zip(axes[0], chosen, strict=True):
        axis.set_title(held_out.captions[i], fontsize=7, wrap=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shown(rows: list[dict[str, Any]]) -> tuple[str, int]:
    """Return the name of the file of images that the grid shows, and the decoding steps: Halton, near GRID_STEPS."""
    row = min(rows, key=lambda row: (row["order"] == "confidence", abs(row["steps"] - GRID_STEPS)))
    return f"{row['order'] or 'fixed'}-{row['steps']}", row["steps"]
