"""The SBOM of each program names everything that the program is built from."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = {
    "postrider": "postrider-cli",
    "postrider-control-plane": "postrider-control-plane",
    "postrider-agent": "postrider-agent",
}


def write(folder):
    ended = subprocess.run([ROOT / "images/sbom.sh", folder], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{ended.stderr}\nIs cargo-cyclonedx installed? `make sbom` installs it"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbom")
    write(folder)
    return folder


def tree(program):
    """The packages of a program's dependency tree, as Cargo sees it: (name, version)."""
    words = ["cargo", "tree", "--locked", "--package", PACKAGE[program], "--edges", "normal,build", "--prefix", "none"]
    lines = subprocess.run([*words, "--format", "{p}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, filter(None, lines.splitlines()))}


def test_there_is_one_for_each_program_and_nothing_beside_it(written):
    assert {path.name for path in written.iterdir()} == {f"{program}.cdx.json" for program in PACKAGE}
    assert not list(ROOT.glob("*/*.cdx.json"))


@pytest.mark.parametrize("program", PACKAGE)
def test_it_names_every_package_of_the_programs_dependency_tree(written, program):
    sbom = json.loads((written / f"{program}.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    itself = sbom["metadata"]["component"]
    components = {(one["name"], one["version"]): one for one in sbom["components"]}
    packages = tree(program)
    assert itself["name"] == program and len(packages) > 200
    assert packages - {(PACKAGE[program], itself["version"])} <= set(components)
    for (name, _), component in components.items():
        assert component["purl"].startswith(f"pkg:cargo/{name}@") and component["licenses"]
        # What came from a registry can be compared with it.
        assert name.startswith("postrider") or component["hashes"][0]["alg"] == "SHA-256"


def test_the_same_commit_gives_the_same_bytes_and_no_path_of_this_machine(written, tmp_path):
    write(tmp_path)
    for program in PACKAGE:
        first = (written / f"{program}.cdx.json").read_bytes()
        assert first == (tmp_path / f"{program}.cdx.json").read_bytes()
        assert str(ROOT).encode() not in first


def test_a_call_without_a_folder_says_what_to_do():
    ended = subprocess.run([ROOT / "images/sbom.sh"], capture_output=True, text=True)
    assert ended.returncode == 2 and "images/sbom.sh FOLDER" in ended.stderr
