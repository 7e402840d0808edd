"""Nodes simulated on this machine: each stage's work stays on its nodes, and survives the loss of the node that did it.

Run by `make chaos`, with the parts of benchmarks/nodes.py. For training see on_ray/training/test_train_chaos.py.
"""

import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from programs import NOTICED_SOON

pytestmark = pytest.mark.chaos
SCRIPT = "nodes.py"


@pytest.fixture(scope="module")
def inputs(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sys.modules["nodes_cluster"].RAY_SETTINGS |= NOTICED_SOON
    with benchmark.prepared(tmp_path_factory.mktemp("nodes"), 1_200) as inputs:
        yield inputs


@pytest.mark.parametrize("name", ["download", "tokenize", "shuffle"])
def test_an_ingest_makes_the_same_bytes_if_its_node_is_lost_and_two_are_added(benchmark, inputs, name: str):
    stage = benchmark.STAGES[name](inputs)
    figures, made = benchmark.losing_a_node(stage)
    print(figures)
    assert made == stage.result(inputs.ingested)
    assert figures["new_nodes_at_work"] == 2 or name == "tokenize"  # its two actors may share a node
    assert int(figures["done_twice"].split()[0]) < figures["total"] / 2


def test_an_evaluation_generates_the_same_images_if_its_node_is_lost_and_two_are_added(benchmark, inputs, monkeypatch):
    monkeypatch.setattr(sys.modules["nodes_stages"], "CAPTIONS", 640)
    stage = benchmark.STAGES["evaluate"](inputs)
    figures, made = benchmark.losing_a_node(stage)
    print(figures)
    assert made == benchmark.undisturbed(stage)[1]
    assert figures["new_nodes_at_work"] == 2


def test_the_endpoint_continues_if_its_node_is_lost_and_two_are_added(benchmark, inputs, monkeypatch):
    monkeypatch.setattr(sys.modules["nodes_serve"], "LOAD_S", 50.0)
    figures = benchmark.serve(inputs.folder)
    print(figures)
    assert figures["same_bytes"] and figures["new_nodes_at_work"]
    # Per client: the request in progress when the frontends were lost, and one to an HTTP process of the lost node.
    assert figures["without_a_picture"] <= 2 * sys.modules["nodes_serve"].CLIENTS, figures


def test_download_and_tokenizer_keep_to_their_own_nodes(benchmark, inputs):
    """Custom resources mark CPU nodes with a fast network and GPU nodes. The download waits for its own nodes."""
    cluster = sys.modules["nodes_cluster"]
    output = inputs.folder / "placed"
    own = ["download.node_resource=download", "tokenize.node_resource=accelerator"]
    with cluster.simulated() as nodes:
        accelerator = nodes.add(num_cpus=2, resources={"accelerator": 1})
        command = sys.modules["nodes_stages"].ingest(inputs, "all")(output)
        with cluster.Program([*command, "tokenize.num_actors=1", *own], nodes.address) as program:
            waiting = "no node with the resource 'download' is available yet: waiting for one"
            cluster.wait_for(lambda: waiting in program.printed, program)
            time.sleep(5)
            assert not list(output.glob("shards/*/manifest.json"))
            download = nodes.add(num_cpus=2, resources={"download": 1})
            with cluster.watched(nodes, [download, accelerator]) as seen:
                cluster.finish(program)
    assert (output / "ingest_report.json").exists()

    def where(work: str) -> list[bool]:
        return [any(work in title for title in titles) for titles in seen]

    assert where("ray::download_round") == [True, False]
    assert where("Encoder") == [False, True]
