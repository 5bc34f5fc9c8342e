"""What comes out of the charts is what Kubernetes takes, and the same each time."""

import datetime
import functools
import json
import re

import crds
import helm_python
import jsonschema
import kubernetes_validate
import pytest
from conftest import CASES
from kubernetes_validate import utils
from rendering import CHARTS, HELM, NAMESPACE, objects, of_kind, rendered

# The oldest that the charts are for, one between, and the newest that there are schemas of.
KUBERNETES = ["1.29", "1.33", kubernetes_validate.latest_version()]
# It reads its files anew for each manifest otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def validated(manifest, version):
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(found, version):
    foreign = [one for one in found if (one["apiVersion"], one["kind"]) in crds.SPECS]
    for one in [one for one in found if one not in foreign]:
        validated(json.dumps(one, sort_keys=True), version)
    for one in foreign:
        assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.validate(one["spec"], crds.SPECS[one["apiVersion"], one["kind"]])


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_slip_in_a_manifest_would_be_found(version):
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, version, strict=True)


def test_rendering_twice_gives_the_same_bytes(chart, values):
    assert rendered(chart, values) == rendered(chart, values)


def test_nothing_depends_on_the_day(chart, values):
    text = "".join(rendered(chart, values).values())
    assert str(datetime.date.today().year) not in text


@pytest.mark.parametrize("chart", CHARTS)
def test_templates_ask_neither_for_the_time_nor_for_chance_nor_for_the_cluster(chart):
    for path in (HELM / chart / "templates").rglob("*.*"):
        words = re.findall(
            r"\b(now|date|lookup|rand\w+|uuidv4|genCA|gen\w*Cert\w*|genPrivateKey|htpasswd|\.Release\.Revision|\.Release\.IsUpgrade)\b",
            path.read_text(),
        )
        assert not words, path


def test_the_linter_finds_nothing(chart, values):
    report = helm_python.lint(HELM / chart, values, strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_every_object_has_a_name_of_its_own_and_says_whose_it_is(chart, values, found):
    own = [one for one in found if "more" not in one["metadata"]["name"] and "text" not in one["metadata"]["name"]]
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    for one in own:
        metadata = one["metadata"]
        assert len(metadata["name"]) <= 63 and metadata["namespace"] == NAMESPACE
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "postrider"
        assert metadata["labels"]["helm.sh/chart"].startswith(chart)
        assert values.get("commonLabels", {}).items() <= metadata["labels"].items()
        assert values.get("commonAnnotations", {}).items() <= metadata.get("annotations", {}).items()


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("name", ["a", "123", "x" * 53, "control-plane", "agent", "a-1.b"])
def test_any_name_of_a_release_will_do(chart, name):
    for one in objects(chart, CASES[chart].GOOD["least"], name=name):
        # A StatefulSet's pods get a label of its name and eleven characters.
        assert len(one["metadata"]["name"]) <= (52 if one["kind"] == "StatefulSet" else 63)
        assert isinstance(one["metadata"]["name"], str)
        validated(json.dumps(one, sort_keys=True), KUBERNETES[-1])


def test_no_secret_is_made_and_no_right_is_asked_for(found):
    assert of_kind(found, "Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


def test_the_notes_say_the_next_command(chart, values):
    notes = rendered(chart, values)["NOTES.txt"]
    assert "kubectl rollout status" in notes
    assert {"control-plane": "tenants create", "agent": "postrider agents list"}[chart] in notes
