"""What is built from is pinned: base images by digest, actions by commit, tools by version. Who checks it is named."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
PINNED_IMAGE = r"docker\.io/library/rust:(?P<version>[\d.]+)-bookworm@sha256:[0-9a-f]{64}"


def test_every_base_image_is_empty_or_pinned_by_digest():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    stages = set(re.findall(r"^FROM .* AS (\S+)", DOCKERFILE, re.MULTILINE))
    assert bases
    for base in bases:
        assert base in {"scratch"} | stages or re.fullmatch(PINNED_IMAGE, base), base
    copied = re.findall(r"--from=(\S+)", DOCKERFILE)
    assert set(copied) <= stages
    # A frontend or a mount of another image would be a base as well.
    assert "# syntax=" not in DOCKERFILE and "--mount" not in DOCKERFILE


def test_the_base_image_has_the_compiler_that_the_workspace_names():
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert re.search(PINNED_IMAGE, DOCKERFILE)["version"] == workspace["rust-version"]


def test_newer_digests_and_actions_are_proposed():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    watched = {(one["package-ecosystem"], one["directory"]) for one in updates}
    assert watched == {("docker", "/images"), ("github-actions", "/")}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_jobs_have_the_rights_they_name(workflow):
    text = workflow.read_text()
    for used in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    told = yaml.safe_load(text)
    assert told["permissions"] == {}
    for job in told["jobs"].values():
        assert job["permissions"] and job["timeout-minutes"] <= 90
        # What may write runs nothing of this repository or its dependencies.
        writes = "write" in job["permissions"].values()
        assert not (writes and any("uses" in step or "make" in step["run"].split() for step in job["steps"]))


def test_advisories_are_checked_every_night():
    audit = yaml.safe_load((ROOT / ".github/workflows/audit.yml").read_text())
    # YAML reads the key `on` as true.
    assert re.fullmatch(r"\d+ \d+ \* \* \*", audit[True]["schedule"][0]["cron"])
    assert any(step.get("run") == "make audit" for step in audit["jobs"]["advisories"]["steps"])
    assert audit["jobs"]["report"]["needs"] == "advisories" and audit["jobs"]["report"]["if"] == "failure()"
    assert re.search(r"^audit: .*\n\t\$\(DENY\) check advisories$", MAKEFILE, re.MULTILINE)


def test_every_advisory_that_is_ignored_is_of_a_dependency_and_has_a_reason():
    advisories = tomllib.loads((ROOT / "deny.toml").read_text())["advisories"]
    assert advisories["yanked"] == advisories["unused-ignored-advisory"] == "deny"
    locked = {package["name"] for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    for ignored in advisories["ignore"]:
        assert re.fullmatch(r"RUSTSEC-\d{4}-\d{4}", ignored["id"])
        crate, words = ignored["reason"].split(" ", 1)
        assert crate in locked and len(words) > 40


def test_tools_are_installed_in_a_pinned_version():
    installed = re.findall(r"^\t\$\(CARGO\) install (.*)$", MAKEFILE, re.MULTILINE)
    assert len(installed) >= 3
    for tool in installed:
        assert re.match(r"[\w-]+ --locked --version \d+\.\d+\.\d+ ", tool), tool
