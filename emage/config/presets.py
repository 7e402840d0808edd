"""Named presets: name -> program (the name of its config class) -> what differs from the defaults of emage.config."""

from typing import Any

# Small enough for a laptop: no GPU, one worker.
_LOCAL_RUN = {"use_gpu": False, "zero_stage": 0, "cpus_per_worker": 2, "max_failures": 2}
_SMALL_DOWNLOAD = {
    **{"shard_rows": 1_000, "threads": 16, "image_size": 64, "min_image_size": 16},
    "min_success_rate": 0.0,  # a handful of rows may well all fail
}
_TINY_MODEL = {"width": 64, "depth": 2, "num_heads": 2, "text": "clip_tiny", "text_length": 24}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The run of Sec. 4: the best setting, 500k steps.
    "paper": {
        "IngestConfig": {},
        "TrainConfig": {},
        "EvaluateConfig": {"metrics": ["fid", "kid", "precision_recall", "clip_score"]},
        "ServeConfig": {},
    },
    # The comparisons among base models: 250k steps (Sec. 4.3).
    "paper_250k": {"TrainConfig": {"optim": {"steps": 250_000}}},
    # Two accounts of the paper's 346M (with the frozen VQGAN): the one that fits, and a plain Transformer of its sizes.
    "emage_346m": {"TrainConfig": {}},
    "emage_vanilla": {"TrainConfig": {"model": {"mlp": "gelu", "positions": "learned"}}},
    # BERT in CLIP's place (Table 5).
    "paper_bert": {
        "TrainConfig": {"method": "iterative1", "model": {"text": "bert_base"}, "optim": {"steps": 250_000}}
    },
    # Real URL tables (column names and header quirks of the published files).
    "laion400m": {"IngestConfig": {"source": {"dataset": "laion400m", "url": "URL", "caption": ["TEXT"]}}},
    "cc12m": {"IngestConfig": {"source": {"dataset": "cc12m", "format": "tsv", "names": ["url", "caption"]}}},
    "cc3m": {"IngestConfig": {"source": {"dataset": "cc3m", "format": "tsv", "names": ["caption", "url"]}}},
    "yfcc100m": {
        "IngestConfig": {
            "source": {"dataset": "yfcc100m", "url": "photo_url", "caption": ["title", "description"], "unquote": True}
        }
    },
    # The small world of emage.data.shapes, on two cores (README: make demo).
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
            "objective": {"warm_start": 0.6},  # #3 from scratch learns to ignore the image it is given
            "optim": {"steps": 3_500, "batch_size": 32, "micro_batch_size": 32, "lr": 1.5e-3, "beta2": 0.99},
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
    # Minutes become seconds: for tests and for a first look at a pipeline. Learns nothing worth drawing.
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
    # The paper's tables and figures (Sec. 4).
    **{
        name: {"ReproduceConfig": {"what": name}}
        for name in ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5", "all")
    },
}
