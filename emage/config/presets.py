"""Named presets: name -> program (the name of its config class) -> the values that differ from the defaults."""

from typing import Any

# Small enough for a laptop: no GPU, one worker.
_LOCAL_RUN = {"use_gpu": False, "zero_stage": 0, "cpus_per_worker": 2, "max_failures": 2}
_SMALL_DOWNLOAD = {
    **{"shard_rows": 1_000, "threads": 16, "image_size": 64, "min_image_size": 16},
    "min_success_rate": 0.0,  # a handful of rows may well all fail
}
_TINY_MODEL = {"width": 64, "depth": 2, "num_heads": 2, "text": "clip_tiny", "text_length": 24}

# One line each, for --help and docs/configuration.md.
SUMMARIES = {
    "paper": "The paper's run (Sec. 4); what the paper does not state is ours. For training, add run.num_workers=GPUS.",
    "paper_250k": "The paper's comparison of base models (Sec. 4.3): 250k steps.",
    "emage_346m": "The network whose size, with the frozen VQGAN, fits the paper's 346M parameters; the default.",
    "emage_vanilla": "A plain Transformer of the paper's width and depth: GELU, one embedding per position.",
    "paper_bert": "BERT in place of CLIP (Sec. 4.5, Table 5).",
    "laion400m": "Columns of LAION-400M's published files.",
    "cc12m": "Columns of CC12M's published file, which has no header.",
    "cc3m": "Columns of CC3M's published file, which has no header.",
    "yfcc100m": "Columns of YFCC100M's published file; captions are title and description.",
    "demo": "The toy world of emage.data.shapes on a machine with two cores and no GPU (make demo).",
    "tiny": "Seconds instead of minutes, for tests and a first look at a program; the model learns nothing.",
    "table2": "Table 2: tokenizers.",
    "table3": "Table 3: the base models.",
    "table4": "Table 4: iterative3 and the autoregressive model, 500k steps.",
    "table5": "Table 5: CLIP and BERT.",
    "table6": "Table 6: decoding steps.",
    "figure3": "Figure 3: learning curves.",
    "figure4": "Figure 4: masking schedules in training.",
    "figure5": "Figure 5: images forming step by step.",
    "methods": "All six methods, equally long trained, in both orders of generation (ours).",
    "all": "All tables and figures of the paper.",
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "IngestConfig": {},
        "TrainConfig": {},
        "EvaluateConfig": {
            "metrics": ["fid", "kid", "precision_recall", "clip_score"],
            "judge": {"reference_images": "captioned"},  # Sec. 4: a random subset of 30k images
        },
        "ServeConfig": {},
    },
    "paper_250k": {"TrainConfig": {"optim": {"steps": 250_000}}},
    "emage_346m": {"TrainConfig": {}},
    "emage_vanilla": {"TrainConfig": {"model": {"mlp": "gelu", "positions": "learned"}}},
    "paper_bert": {
        "TrainConfig": {"method": "iterative1", "model": {"text": "bert_base"}, "optim": {"steps": 250_000}}
    },
    "laion400m": {"IngestConfig": {"source": {"dataset": "laion400m", "url": "URL", "caption": ["TEXT"]}}},
    "cc12m": {"IngestConfig": {"source": {"dataset": "cc12m", "format": "tsv", "names": ["url", "caption"]}}},
    "cc3m": {"IngestConfig": {"source": {"dataset": "cc3m", "format": "tsv", "names": ["caption", "url"]}}},
    "yfcc100m": {
        "IngestConfig": {
            "source": {"dataset": "yfcc100m", "url": "photo_url", "caption": ["title", "description"], "unquote": True}
        }
    },
    "demo": {
        "DemoConfig": {},
        "IngestConfig": {
            "download": {**_SMALL_DOWNLOAD, "allow_private_hosts": True},
            "tokenize": {"tokenizer": "vqgan-demo-f8-512", "batch_size": 64, "gpus_per_actor": 0.0},
            "shuffle": {"rows_per_file": 4_096, "row_group_rows": 1_024},
        },
        "TrainConfig": {
            "data": {"tokenizer": "vqgan-demo-f8-512"},
            "model": {
                **{"width": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0},
                **{"text": "clip_tiny", "text_length": 16},
            },
            "objective": {
                "warm_start": 0.6,  # iterative3 from scratch learns to ignore its image input
                "given_share": 0.25,  # for inpainting with parallel_autoregressive
            },
            "optim": {
                **{"optimizer": "muon", "steps": 1_500, "batch_size": 32, "micro_batch_size": 32},
                **{"lr": 1.5e-3, "beta2": 0.99},
            },
            "sampling": {"order": "halton"},
            "run": {**_LOCAL_RUN, "sample_every": 500, "checkpoint_every": 1_000},
        },
        "EvaluateConfig": {
            "candidates": 1,
            "rank": "likelihood",
            "metrics": ["shapes"],
            "batch_size": 64,
            "num_actors": 2,
            "gpus_per_actor": 0.0,
        },
        "ServeConfig": {"gpus_per_replica": 0.0},
    },
    "tiny": {
        "IngestConfig": {
            "download": {**_SMALL_DOWNLOAD, "allow_private_hosts": True},
            "tokenize": {"tokenizer": "vqgan-demo-f8-512", "batch_size": 16, "gpus_per_actor": 0.0},
            "shuffle": {"rows_per_file": 256, "row_group_rows": 64},
        },
        "TrainConfig": {
            "data": {"tokenizer": "vqgan-demo-f8-512"},
            "model": _TINY_MODEL,
            "objective": {"warm_start": 0.5},
            "optim": {"steps": 20, "batch_size": 8, "micro_batch_size": 8, "lr": 1e-3},
            "sampling": {"steps": 4, "order": "random"},
            "run": {**_LOCAL_RUN, "log_every": 5, "sample_every": 10, "checkpoint_every": 10},
        },
        "EvaluateConfig": {"candidates": 2, "rank": "likelihood", "batch_size": 8, "gpus_per_actor": 0.0, "limit": 8},
        "ServeConfig": {"gpus_per_replica": 0.0},
    },
    **{
        name: {"ReproduceConfig": {"what": name}}
        for name in (
            "table2",
            "table3",
            "table4",
            "table5",
            "table6",
            "figure3",
            "figure4",
            "figure5",
            "methods",
            "all",
        )
    },
}


def presets(program: type) -> dict[str, dict[str, Any]]:
    """Return the presets of a program, name -> {dotted key: value}."""
    return {name: flatten(values[program.__name__]) for name, values in PRESETS.items() if program.__name__ in values}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
