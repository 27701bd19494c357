"""Checks the manifests beside this file against the published schemas of Kubernetes and Kubeflow.

    pip install kubernetes-validate kubeflow-training kubeflow-trainer-api jsonschema
    python3 validate.py [kubeflow.org_mpijobs.yaml]

Kubernetes has JSON Schemas. Kubeflow has models of its resources: what they do not know is lost on the way through them. Its MPI
operator has a definition of its resource, `manifests/base/kubeflow.org_mpijobs.yaml` in its repository.
"""

import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml
from kubeflow.training import ApiClient
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob


class Response:
    """What the client of Kubeflow's training operator takes for the answer of a server."""

    def __init__(self, value):
        import json

        self.data = json.dumps(value)


def through_models(resource):
    """The resource as Kubeflow's models write it."""
    if resource["kind"] == "TrainJob":
        return TrainerV1alpha1TrainJob.from_dict(resource).to_dict()
    client = ApiClient()
    return client.sanitize_for_serialization(client.deserialize(Response(resource), "KubeflowOrgV1PyTorchJob"))


def lost(resource, seen, path=""):
    """The places of a resource that are not in what was seen of it."""
    if isinstance(resource, dict) and isinstance(seen, dict):
        for key, value in resource.items():
            yield from lost(value, seen[key], f"{path}.{key}") if key in seen else [f"{path}.{key}"]
    elif isinstance(resource, list) and isinstance(seen, list) and len(resource) == len(seen):
        for place, (value, other) in enumerate(zip(resource, seen)):
            yield from lost(value, other, f"{path}[{place}]")
    elif resource != seen:
        yield f"{path} ({resource!r} is {seen!r})"


def check_by_definition(resource, definition):
    """Checks a resource against the schema of its version, in which no place may be unknown."""
    version = resource["apiVersion"].split("/")[1]
    versions = definition["spec"]["versions"]
    schema = next(each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == version)
    jsonschema.validate(resource, schema)
    wrong = list(unknown(resource, schema))
    assert not wrong, f"unknown to the MPI operator: {wrong}"


def unknown(resource, schema, path=""):
    if isinstance(resource, dict) and "properties" in schema and path != ".metadata":
        for key, value in resource.items():
            known = schema["properties"].get(key)
            yield from unknown(value, known, f"{path}.{key}") if known else [f"{path}.{key}"]
    elif isinstance(resource, dict) and isinstance(schema.get("additionalProperties"), dict):
        for key, value in resource.items():
            yield from unknown(value, schema["additionalProperties"], f"{path}.{key}")
    elif isinstance(resource, list) and "items" in schema:
        for place, value in enumerate(resource):
            yield from unknown(value, schema["items"], f"{path}[{place}]")


for path in sorted(pathlib.Path(__file__).parent.glob("*.yaml")):
    for resource in yaml.safe_load_all(path.read_text()):
        if resource["kind"] == "MPIJob":
            if len(sys.argv) < 2:
                print(f"{path.name}: not checked without the definition of the MPI operator")
                continue
            check_by_definition(resource, yaml.safe_load(pathlib.Path(sys.argv[1]).read_text()))
        elif "kubeflow" in resource["apiVersion"]:
            wrong = list(lost(resource, through_models(resource)))
            assert not wrong, f"{path.name}: unknown to Kubeflow: {wrong}"
        else:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        print(f"{path.name}: {resource['kind']} {resource['metadata']['name']} is valid")
