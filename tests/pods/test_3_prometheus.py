"""A real Prometheus scrapes the pods and evaluates the charts' alerts, with minutes become seconds."""

import json
import re
import subprocess
import time
import urllib.request

import pytest
import yaml
from cluster import eventually
from images import ROOT
from rendering import CHARTS

BIN = ROOT / "tests/prometheus/.bin"
LISTEN = "127.0.0.1:9090"
METRIC = re.compile(r"\b(?:postrider|process)_[a-z_]+\b")


def quickened(rules):
    """Rules in which what waits for minutes waits for seconds; days stay days."""
    text = re.sub(r"(\[|for: )(\d+)m\b", r"\1\2s", rules.read_text())
    assert "m]" not in text.replace(":5m]", "") and not re.search(r"for: \d+m", text)
    return text


class Prometheus:
    """A process of its own, with a store of its own."""

    def __init__(self, folder, pods):
        self.log = folder / "prometheus.log"
        for chart in CHARTS:
            (folder / f"{chart}.yaml").write_text(quickened(ROOT / f"helm/{chart}/files/alerts.yaml"))
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [pod.url("admin", "")[7:] for pod in found], "labels": {"namespace": "web"}}]}
            for job, found in pods.items()
        ]
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{chart}.yaml" for chart in CHARTS],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        command = [BIN / "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={LISTEN}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(self, path):
        try:
            with urllib.request.urlopen(f"http://{LISTEN}/api/v1/{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def scraped(self):
        """Whether all targets have been scraped."""
        targets = (self.ask("targets") or {}).get("activeTargets", [])
        return targets and all(target["health"] == "up" for target in targets)

    def firing(self):
        """The labels of the alerts that fire, by name."""
        alerts = eventually("Prometheus says which alerts there are", lambda: self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}

    def stop(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def prometheus(platform, tmp_path_factory):
    pods = {"control-plane": [platform.control_plane], "agent": platform.agents}
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), pods)
    yield prometheus
    prometheus.stop()


def metrics(pod):
    status, text = pod.get("/metrics")
    assert status == 200
    return text


def test_metrics_are_as_prometheus_wants_them(platform):
    for pod in (platform.control_plane, platform.agents[0]):
        ended = subprocess.run([BIN / "promtool", "check", "metrics"], input=metrics(pod), capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0 and not ended.stderr, ended.stderr


def test_programs_have_the_metrics_that_alerts_and_dashboards_use(platform):
    for chart, pod in (("control-plane", platform.control_plane), ("agent", platform.agents[0])):
        files = [ROOT / f"helm/{chart}/files/{file}" for file in ("alerts.yaml", "dashboard.json")]
        used = {name for file in files for name in METRIC.findall(file.read_text())}
        has = set(METRIC.findall(metrics(pod)))
        # There is none before the first backup, and none where records are not streamed.
        absent = {"postrider_backup_last_success_timestamp_seconds", "postrider_audit_stream_lag_records"}
        assert used - has <= absent, sorted(used - has)


def test_nothing_fires_while_all_is_well(platform, prometheus):
    eventually("all pods are scraped", prometheus.scraped)
    platform.emit(50)
    platform.all_delivered_at_least_once()
    # As long as the longest time for which a condition must hold, quickened as it is.
    for _ in range(20):
        assert prometheus.firing() == {}
        time.sleep(1)


def test_a_pool_without_agents_and_its_backlog_are_told(platform, prometheus):
    for agent in platform.agents:
        code, _ = agent.terminate()
        assert code == 0, agent.log

    def told():
        platform.emit(200)
        firing = prometheus.firing()
        return firing if {"PostriderPoolWithoutAgents", "PostriderBacklogGrowing", "PostriderAgentsDown"} <= firing.keys() else None

    firing = eventually("the dead pool and its backlog are told", told)
    assert firing["PostriderPoolWithoutAgents"] == {
        "alertname": "PostriderPoolWithoutAgents", "namespace": "web", "job": "control-plane", "pool": "default", "severity": "critical",
    }
    assert firing["PostriderBacklogGrowing"]["pool"] == "default"
    assert "PostriderControlPlaneDown" not in firing


def test_they_end_when_agents_are_back(platform, prometheus):
    for agent in platform.agents:
        agent.start()
    eventually("no alert fires any more", lambda: prometheus.scraped() and prometheus.firing() == {})
    platform.all_delivered_at_least_once()


def test_a_control_plane_that_is_down_is_told(platform, prometheus):
    platform.control_plane.terminate()
    eventually("it is told", lambda: "PostriderControlPlaneDown" in prometheus.firing())
    eventually("its agents too have no stream", lambda: "PostriderAgentWithoutStream" in prometheus.firing())
