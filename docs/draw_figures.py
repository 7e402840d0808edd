"""Draw the two figures of docs/architecture.md as SVG: python docs/draw_figures.py

The figures have a light background of their own, so that they are readable on light and dark pages.
"""

import math
import random
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
TEXT, MUTED, LINE = "#1f2933", "#5c6873", "#46535f"
COLOURS = {  # fill, border
    "data": ("#f1f3f5", "#868e96"),
    "text": ("#e3f4e8", "#3c7a4f"),
    "network": ("#e5edfb", "#4a6fa5"),
    "choice": ("#fff1dc", "#b26a00"),
    "image": ("#f6e8f7", "#8a4b8f"),
    "group": ("#fbfcfd", "#adb5bd"),
}


class Figure:
    """An SVG that is built from boxes, arrows and texts; all sizes are in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
        ]

    def box(self, area: tuple[int, int, int, int], title: str, *lines: str, kind: str = "data") -> None:
        """Draw a box in `area` (x, y, width, height) with a bold title and lines of text; paths are grey."""
        x, y, w, h = area
        fill, border = COLOURS[kind]
        style = f'rx="7" fill="{fill}" stroke="{border}" stroke-width="1.4"'
        self.parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" {style}/>')
        top = y + 20 if kind == "group" else y + (h - 17 * (len(lines) + 1)) / 2 + 13
        self.text(x + w / 2, top, title, bold=True)
        for i, line in enumerate(lines, start=1):
            is_path = line.startswith(("emage/", "pipelines/"))
            self.text(x + w / 2, top + 17 * i, line, size=12, colour=MUTED if is_path else TEXT)

    def text(
        self, x: float, y: float, text: str, size: int = 13, bold: bool = False, colour: str = TEXT, at: str = "middle"
    ) -> None:
        style = f'font-size="{size}" text-anchor="{at}" fill="{colour}"' + (' font-weight="600"' if bold else "")
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')

    def arrow(self, *points: tuple[int, int], both: bool = False) -> None:
        """Draw a line with a head at its end, and at its start with `both`."""
        path = " ".join(f"{x},{y}" for x, y in points)
        start = ' marker-start="url(#head)"' if both else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#head)"{start}/>'
        )

    def cell(self, x: int, y: int, side: int, fill: str) -> None:
        self.parts.append(f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" fill="{fill}"/>')

    def write(self, name: str) -> None:
        (IMAGES / name).write_text("\n".join([*self.parts, "</svg>", ""]))


def network() -> None:
    """The network, the loop of decoding steps around it, and a token grid along the way."""
    figure = Figure(1000, 640, "The network and its decoding loop")
    figure.box((24, 30, 190, 76), "Caption", "“a small red circle above", "a large blue square”")
    figure.box(
        (264, 22, 230, 92),
        "Text encoder",
        "CLIP ViT-L/14 text tower",
        "12 layers, width 768",
        "emage/model/text/",
        kind="text",
    )
    figure.box(
        (544, 22, 210, 92),
        "Text context",
        "keys and values of every",
        "layer’s cross-attention;",
        "computed once per image",
        kind="text",
    )
    figure.arrow((214, 68), (262, 68))
    figure.arrow((494, 68), (542, 68))
    figure.text(622, 142, "read in every step", 12, colour=MUTED, at="start")

    figure.box((24, 190, 190, 92), "Tokens (B, N)", "[MASK] where no", "token is kept yet;", "at first everywhere")
    figure.box((246, 190, 124, 92), "Embedding", "token + 2-D", "position", kind="network")
    figure.box((398, 166, 414, 140), "", kind="group")
    figure.text(410, 190, "12 blocks, width 768", bold=True, at="start")
    figure.box((408, 218, 120, 54), "Self-attention", "all positions", kind="network")
    figure.box((546, 218, 128, 54), "Cross-attention", "the caption", kind="network")
    figure.box((692, 218, 110, 54), "MLP", "GEGLU", kind="network")
    figure.text(605, 294, "emage/model/transformer.py", 12, colour=MUTED)
    figure.box((842, 190, 134, 92), "Head", "logits (B, N, V):", "a probability", "for every code", kind="network")
    figure.arrow((610, 114), (610, 216))
    for start, end, y in ((214, 244, 236), (370, 396, 236), (528, 544, 245), (674, 690, 245), (812, 840, 236)):
        figure.arrow((start, y), (end, y))

    figure.box(
        (662, 356, 314, 82),
        "Sample a token per masked position",
        "temperature, top-k, top-p",
        "emage/methods/sampling.py",
        kind="choice",
    )
    figure.box(
        (264, 356, 350, 82),
        "Keep the most confident, mask the rest",
        "log-probability + position noise; count by schedule",
        "emage/methods/unmasking_order.py",
        kind="choice",
    )
    figure.arrow((909, 282), (909, 354))
    figure.arrow((662, 397), (616, 397))
    figure.arrow((264, 397), (119, 397), (119, 284))
    figure.text(131, 334, "decoding step", 13, True, at="start")
    figure.text(131, 351, "t = 1 ... T (16)", 12, at="start")

    figure.arrow((440, 438), (440, 482))
    figure.text(452, 466, "after step T: no position is masked", 12, colour=MUTED, at="start")
    figure.box((340, 484, 200, 74), "Tokenizer’s decoder", "VQGAN", "emage/tokenizers/", kind="image")
    figure.box((340, 582, 200, 40), "Image, 256 x 256", kind="image")
    figure.arrow((440, 558), (440, 580))
    _grids(figure, x=582, y=500)
    figure.box(
        (24, 484, 262, 138),
        "In training",
        "real tokens are masked at random;",
        "the loss is the cross-entropy with",
        "the true tokens. What the network",
        "sees is what tells methods apart.",
        "emage/methods/",
        kind="data",
    )
    figure.write("network.svg")


def _grids(figure: Figure, x: int, y: int) -> None:
    """Four token grids: which of 64 tokens are kept after a step, by the cosine schedule."""
    rng = random.Random(3)
    order = rng.sample(range(64), 64)
    shades = [rng.choice(("#4a6fa5", "#7c9bcb", "#b26a00", "#d9a24a", "#3c7a4f", "#8a4b8f")) for _ in range(64)]
    for i, step in enumerate((4, 8, 12, 16)):
        kept = 64 if step == 16 else math.floor((1 - math.cos(math.pi / 2 * step / 16)) * 64)
        left = x + i * 100
        for position in range(64):
            fill = shades[position] if position in order[:kept] else "#e3e7eb"
            figure.cell(left + position % 8 * 11, y + position // 8 * 11, 11, fill)
        figure.text(left + 44, y + 106, f"t = {step}", 12, True)
        figure.text(left + 44, y + 121, f"{kept} of 64 kept", 11, colour=MUTED)


def cluster() -> None:
    """The processes of a cluster and what flows between them."""
    figure = Figure(1000, 588, "Processes on a cluster")
    figure.box((20, 74, 150, 92), "Your machine", "ray job submit,", "dashboard through", "a tunnel")
    figure.box((212, 24, 220, 346), "Head node (no GPU)", kind="group")
    figure.box(
        (226, 58, 192, 92),
        "Ray",
        "job server and dashboard",
        ":8265; which node has",
        "which process (GCS)",
        kind="text",
    )
    figure.box(
        (226, 172, 192, 180),
        "Driver, one per job",
        "pipelines/ingest.py",
        "pipelines/train.py",
        "pipelines/evaluate.py",
        "plans, waits, reports;",
        "moves no images;",
        "emage/on_ray/*/driver.py",
        kind="choice",
    )
    figure.arrow((170, 120), (224, 120))
    figure.arrow((322, 150), (322, 170))

    figure.box((478, 24, 226, 128), "CPU nodes", kind="group")
    figure.box(
        (492, 56, 198, 82),
        "Tasks",
        "select, download with",
        "img2dataset, shuffle",
        "emage/on_ray/ingest/",
        kind="network",
    )
    figure.box((478, 176, 226, 194), "GPU nodes", kind="group")
    figure.box((492, 206, 198, 44), "Tokenizer actors", "Ray Data; a VQGAN each", kind="network")
    figure.box((492, 258, 198, 44), "Training workers", "Ray Train + DeepSpeed", kind="network")
    figure.box((492, 310, 198, 44), "Evaluation actors", "a model and scorers each", kind="network")
    figure.arrow((418, 240), (447, 240), (447, 97), (490, 97))
    figure.arrow((447, 240), (447, 280), (476, 280))

    figure.box((754, 24, 226, 52), "The web", "image hosts: the URLs’ targets")
    figure.arrow((754, 50), (728, 50), (728, 80), (692, 80))
    figure.box(
        (754, 102, 226, 268),
        "Shared storage",
        "one path on every node (/shared)",
        "",
        "urls/  shards/  tokenized/",
        "tokens/: the token table",
        "checkpoints/: to resume",
        "model/: the checkpoint for use",
        "pictures/  report.json",
        "",
        "work is finished when its",
        "manifest exists",
        kind="data",
    )
    figure.arrow((706, 118), (752, 118), both=True)
    figure.arrow((706, 272), (752, 272), both=True)

    figure.box((212, 414, 492, 148), "Serving nodes (Ray Serve)", kind="group")
    figure.box((226, 452, 118, 84), "HTTP proxy", ":8000", "one per node", kind="text")
    figure.box(
        (384, 452, 132, 84), "Frontend", "the API: checks,", "errors, streaming", "emage/serving/http/", kind="choice"
    )
    figure.box((556, 452, 134, 84), "Model replica", "queue, batches;", "a GPU each", "emage/serving/", kind="network")
    figure.arrow((344, 494), (382, 494), both=True)
    figure.arrow((516, 494), (554, 494), both=True)
    figure.box((20, 452, 150, 84), "Clients", "OpenAI client, curl,", "the page; TLS in", "front")
    figure.arrow((170, 494), (224, 494), both=True)
    figure.arrow((860, 370), (860, 406), (630, 406), (630, 450))
    figure.text(800, 422, "loads model/", 12, colour=MUTED)

    figure.box(
        (754, 452, 226, 110),
        "MLflow tracking server",
        "runs in PostgreSQL or SQLite,",
        "images in an object store;",
        "stages continue without it",
        kind="image",
    )
    figure.arrow((322, 352), (322, 390), (728, 390), (728, 508), (752, 508))
    figure.text(530, 385, "settings, metrics, images of every run", 12, colour=MUTED)
    figure.write("cluster.svg")


if __name__ == "__main__":
    network()
    cluster()
