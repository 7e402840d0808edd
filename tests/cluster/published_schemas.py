"""Makes data/*.json.xz: the published schemas of KubeRay's custom resources (1.7.0) and of compose files.

    git clone --branch v1.7.0 https://github.com/ray-project/kuberay
    git clone https://github.com/compose-spec/compose-spec
    python tests/cluster/published_schemas.py kuberay/helm-chart/kuberay-operator/crds compose-spec/schema

Kubernetes drops fields that a resource's schema does not name, without a word; here they are errors. Descriptions, most
of the text, are left out.
"""

import functools
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).with_name("data")
VERSION = "v1"


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of Kubernetes as a JSON Schema that rejects unknown fields."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: schema[key] for key in ("type", "required", "enum", "minimum", "maximum", "pattern") if key in schema}
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = strict(schema["items"])
    return found


def kuberay(folder: Path) -> dict[str, Any]:
    """Return a schema for each "API/version kind"."""
    schemas = {}
    for file in sorted(folder.glob("*.yaml")):
        resource = yaml.safe_load(file.read_text())["spec"]
        (version,) = (version for version in resource["versions"] if version["name"] == VERSION)
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, checked with the other resources
        schemas[f"{resource['group']}/{VERSION} {resource['names']['kind']}"] = schema
    return schemas


def without_descriptions(value: Any) -> Any:
    if isinstance(value, dict):
        texts = {key for key, text in value.items() if key == "description" and isinstance(text, str)}
        return {key: without_descriptions(inner) for key, inner in value.items() if key not in texts}
    return [without_descriptions(inner) for inner in value] if isinstance(value, list) else value


def write(name: str, schemas: Any) -> None:
    file = DATA / f"{name}.json.xz"
    file.write_bytes(lzma.compress(json.dumps(schemas, sort_keys=True).encode()))
    print(f"{file.name}: {file.stat().st_size // 1000} kB")


@functools.cache
def read(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))


if __name__ == "__main__":
    crds, compose = (Path(argument) for argument in sys.argv[1:])
    write("kuberay", kuberay(crds))
    write("compose", without_descriptions(json.loads((compose / "compose-spec.json").read_text())))
