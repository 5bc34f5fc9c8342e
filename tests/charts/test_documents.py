"""What people are told, by the READMEs, the guide, the notes and the refusals, works as it stands there."""

import re
import shlex

import crds
import helm_python
import kubernetes_validate
import programs
import pytest
import yaml
from conftest import CASES
from rendering import CHARTS, HELM, REPOSITORY, Refused, objects, rendered

DOCUMENTS = [HELM / chart / "README.md" for chart in CHARTS] + [REPOSITORY / "docs/kubernetes.md"]


def told():
    """Every text that people may follow."""
    yield from (path.read_text() for path in DOCUMENTS)
    for chart, cases in CASES.items():
        yield from (rendered(chart, values)["NOTES.txt"] for values in cases.GOOD.values())
        for values, _ in cases.REFUSED.values():
            try:
                rendered(chart, values)
            except Refused as refused:
                yield str(refused)


def test_the_command_knows_every_call_that_is_told():
    calls = {call for text in told() for call in calls_in(text)}
    assert len(calls) > 10
    for call in sorted(calls):
        output, code = programs.run(*call, "--help")
        assert code == 0 and "Usage: " in output, f"{call}: {output}"


def calls_in(text):
    """The calls of `postrider` in a text, as words. 'postrider' is a release and a namespace in it, too."""
    lines = text.replace("\\\n", " ").replace(" -- ", "\n").splitlines()
    verbs = "agents|emit|egress|pools|secrets|subscriptions|tenants|tokens|--server"
    for line in lines:
        for call in re.findall(rf"(?<![/\w.-])postrider (?:{verbs}) [^`>|;#(…]*", line):
            yield tuple(shlex.split(call.rstrip(" .,:")))


def test_values_that_are_set_on_the_command_line_are_there():
    schemas = [yaml.safe_load((HELM / chart / "values.yaml").read_text()) for chart in CHARTS]
    # In prose too: `egress.proxy.url`, where the first word is a value.
    firsts = "|".join(sorted(set().union(*schemas)))
    paths = {path for text in told() for path in re.findall(rf"(?:--set '?|`)((?:{firsts})(?:\.\w+)+)", text)}
    assert len(paths) > 20
    for path in paths:
        assert any(has(values, path.split(".")) for values in schemas), path


def has(values, path):
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_examples_of_values_are_rendered(document):
    blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)
    for example in [part for block in blocks for part in block.split("# or\n")]:
        values = yaml.safe_load(example)
        chart = "agent" if "egress" in values else "control-plane"
        address = {"agents": {"address": "agents.example.com:443"}} if chart == "control-plane" else {}
        for one in objects(chart, CASES[chart].SECRETS | address | values):
            if (one["apiVersion"], one["kind"]) not in crds.SPECS:
                kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    assert blocks or document.parent.name == "control-plane"


@pytest.mark.parametrize("chart", CHARTS)
def test_a_packaged_chart_has_what_it_needs(chart, tmp_path):
    archive = helm_python.package(HELM / chart, destination=tmp_path)
    with helm_python.Chart.load(archive) as packaged:
        names = {file["name"] for file in packaged.files}
        assert {"README.md", "files/alerts.yaml", "files/dashboard.json"} <= names
        assert packaged.schema["additionalProperties"] is False
