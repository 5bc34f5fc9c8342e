"""Helm 3 makes the same of the charts as Helm 4, whose engine the other tests use."""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from rendering import HELM, NAMESPACE, RELEASE

HELM3 = Path(sys.prefix, "bin/helm3")


def helm3(*arguments, values, tmp_path):
    assert HELM3.exists(), f"{HELM3} is missing; `make setup` installs it"
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    # It takes clusters for as old as itself otherwise.
    command = [HELM3, *arguments, "--namespace", NAMESPACE, "--values", file, "--kube-version", "1.31.0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def by_name(found):
    return sorted(found, key=lambda one: (one["kind"], one["metadata"]["name"]))


def test_the_objects_are_the_same(chart, values, found, tmp_path):
    ended = helm3("template", RELEASE, HELM / chart, values=values, tmp_path=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert by_name(one for one in yaml.safe_load_all(ended.stdout) if one) == by_name(found)


def test_the_linter_finds_nothing(chart, values, tmp_path):
    ended = helm3("lint", "--strict", HELM / chart, values=values, tmp_path=tmp_path)
    assert ended.returncode == 0, ended.stdout


def test_what_cannot_be_used_is_refused(chart, refused, tmp_path):
    values, sentence = refused
    ended = helm3("template", RELEASE, HELM / chart, values=values, tmp_path=tmp_path)
    assert ended.returncode != 0
    # What the schema refuses has other words in Helm 3, but the same place.
    by_schema = sentence.startswith(("at '", "additional properties", "missing property"))
    assert ("don't meet the specifications of the schema" if by_schema else sentence) in ended.stderr
