"""Charts rendered by Helm's own engine, as objects to look at."""

import copy
import functools
import json
from pathlib import Path

import helm_python
import yaml

REPOSITORY = Path(__file__).parents[2]
HELM = REPOSITORY / "helm"
CHARTS = ("control-plane", "agent")
RELEASE, NAMESPACE = "postrider", "web"


class Refused(Exception):
    """Helm did not render the chart, and said why."""


def merged(base, over):
    """`base` with `over` put over it, as Helm merges values: maps by key, everything else as a whole."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    result = {key: value for key, value in base.items() if key not in over}
    return result | {key: merged(base.get(key), value) for key, value in over.items()}


def rendered(chart, values, folder=None, name=RELEASE):
    """Each template's text, by its name in the chart."""
    with helm_python.Chart.load(folder or HELM / chart) as loaded:
        try:
            texts = loaded.render(values, name=name, namespace=NAMESPACE)
        except helm_python.HelmError as error:
            raise Refused(str(error)) from None
    return {path.removeprefix(f"{chart}/templates/"): text for path, text in texts.items()}


@functools.cache
def _objects(chart, values, folder, name):
    texts = rendered(chart, json.loads(values), folder, name)
    manifests = [text for path, text in sorted(texts.items()) if path.endswith(".yaml")]
    return [found for text in manifests for found in yaml.safe_load_all(text) if found]


def objects(chart, values, folder=None, name=RELEASE):
    """All objects that the chart makes of these values."""
    return copy.deepcopy(_objects(chart, json.dumps(values), folder, name))


def of_kind(found, *kinds):
    return [one for one in found if one["kind"] in kinds]


def workload(found):
    """The one StatefulSet or Deployment."""
    (one,) = of_kind(found, "StatefulSet", "Deployment")
    return one


def pods(found):
    """The specs of all pods: the workload's, and that of `helm test`."""
    return [workload(found)["spec"]["template"]["spec"]] + [pod["spec"] for pod in of_kind(found, "Pod")]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def settings_text(found):
    """The program's settings file."""
    (config,) = [one for one in of_kind(found, "ConfigMap") if any(key.endswith(".toml") for key in one["data"])]
    (text,) = [text for key, text in config["data"].items() if key.endswith(".toml")]
    return text


def texts_in(value):
    """Every text and every key that stands anywhere in a value."""
    if isinstance(value, dict):
        return {text for key, inner in value.items() for text in texts_in(inner) | {key}}
    if isinstance(value, list):
        return {text for inner in value for text in texts_in(inner)}
    return {value} if isinstance(value, str) else set()
