"""Checks the manifests beside this file against the published schemas of Kubernetes and Kubeflow.

    pip install kubernetes-validate kubeflow-training kubeflow-trainer-api
    python3 validate.py

Kubernetes has JSON Schemas. Kubeflow has models of its resources: what they do not know is lost on the way through them.
"""

import pathlib

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


for path in sorted(pathlib.Path(__file__).parent.glob("*.yaml")):
    for resource in yaml.safe_load_all(path.read_text()):
        if "kubeflow" in resource["apiVersion"]:
            wrong = list(lost(resource, through_models(resource)))
            assert not wrong, f"{path.name}: unknown to Kubeflow: {wrong}"
        else:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
        print(f"{path.name}: {resource['kind']} {resource['metadata']['name']} is valid")
