"""The runbooks: one for each alert, with commands that the product has."""

import os
import re
import shlex
import subprocess

import pytest
from test_files import ROOT, alerts

RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
TARGET = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")


def commands():
    """The calls of `postrider`, in blocks and within sentences."""
    blocks = "\n".join(re.findall(r"^```sh$(.*?)^```$", RUNBOOKS, re.MULTILINE | re.DOTALL))
    lines = [line.split(" #")[0].strip() for line in blocks.splitlines()]
    within = re.findall(r"`(postrider [^`]+)`", re.sub(r"```.*?```", "", RUNBOOKS, flags=re.DOTALL))
    return sorted({line for line in [*lines, *within] if line.startswith("postrider ")})


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    sections = re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    assert sections == [alert["alert"] for alert in alerts()]


def test_each_runbook_says_what_it_means_how_to_look_and_what_to_do():
    for section in re.split(r"^## ", RUNBOOKS, flags=re.MULTILINE)[2:]:
        parts = [section.find(part) for part in ("**What it means.**", "**Look.**", "**Do.**")]
        assert -1 not in parts and parts == sorted(parts), section.splitlines()[0]


def test_links_lead_somewhere():
    for page, section in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", RUNBOOKS):
        target = ROOT / "docs" / (page or "runbooks.md")
        assert target.exists(), page
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if target.suffix == ".md" else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not section or section in anchors, f"{page}#{section}"


@pytest.mark.parametrize("command", commands())
def test_the_product_has_the_commands(command):
    """`--help` at the end: what stands before it is read, and nothing is called."""
    program, *arguments = shlex.split(command)
    ended = subprocess.run(
        [f"{TARGET}/release/{program}", *arguments, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0 and "Usage:" in ended.stdout, ended.stderr
