"""The charts' alert rules and dashboards: valid, tested, and about metrics that there are."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = ROOT / "tests/prometheus/.bin/promtool"
CHARTS = ("control-plane", "agent")
RULES = [ROOT / f"helm/{chart}/files/alerts.yaml" for chart in CHARTS]
DASHBOARDS = [ROOT / f"helm/{chart}/files/dashboard.json" for chart in CHARTS]
CASES = sorted((ROOT / "tests/prometheus").glob("*_alerts.yaml"))
RUNBOOK_URL = "https://github.com/postrider/postrider/blob/main/docs/runbooks.md#"

# What Prometheus' text format adds to the name of a histogram.
SUFFIXES = re.compile(r"_(bucket|sum|count)$")
METRIC = re.compile(r"\b(?:postrider|process)_[a-z_]+\b")


def alerts():
    """All alerts of both charts."""
    files = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def cases():
    """All unit tests of alerts: the alert's name, and what is expected to fire."""
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]
    return [(rule["alertname"], rule["exp_alerts"]) for test in tests for rule in test["alert_rule_test"]]


def panels(dashboard):
    """The panels of a dashboard that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def promtool(*arguments):
    """Runs promtool, and fails with what it says."""
    ended = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("rules", RULES, ids=CHARTS)
def test_rules_are_valid(rules):
    promtool("check", "rules", rules)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path):
    promtool("test", "rules", path)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    names = {alert["alert"] for alert in alerts()}
    assert {name for name, fires in cases() if fires} == names
    assert {name for name, fires in cases() if not fires} == names


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == RUNBOOK_URL + alert["alert"].lower()


@pytest.mark.parametrize("path", DASHBOARDS, ids=CHARTS)
def test_a_dashboard_can_be_imported(path):
    dashboard = json.loads(path.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for panel in panels(dashboard):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        names = set(re.findall(r"\$(\w+)", " ".join(target["expr"] for target in panel["targets"])))
        assert names <= variables.keys() | {"__rate_interval"}, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=CHARTS)
def test_panels_lie_beside_each_other(path):
    taken = set()
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=CHARTS)
def test_queries_of_a_dashboard_are_valid(path, tmp_path):
    """As recording rules, with what Grafana puts into them."""
    exprs = [target["expr"] for panel in panels(json.loads(path.read_text())) for target in panel["targets"]]
    plain = [expr.replace("$__rate_interval", "2m").replace("$namespace", ".*").replace("$job", ".*") for expr in exprs]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(plain)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_every_metric_that_is_used_is_documented():
    documented = set(METRIC.findall((ROOT / "docs/metrics.md").read_text()))
    for path in [*RULES, *DASHBOARDS]:
        used = {SUFFIXES.sub("", name) for name in METRIC.findall(path.read_text())}
        assert used <= documented, f"{path}: {sorted(used - documented)}"


def test_every_metric_is_on_a_dashboard():
    documented = set(METRIC.findall((ROOT / "docs/metrics.md").read_text()))
    shown = {SUFFIXES.sub("", name) for path in DASHBOARDS for name in METRIC.findall(path.read_text())}
    assert documented <= shown, sorted(documented - shown)
