"""The images: what is in them and how large it is, and that the Dockerfile ships what is tested here."""

import os
import subprocess

import images
import pytest
import yaml

MIB = 1024 * 1024
# The programs of an image, beyond what is a base image elsewhere.
LIMITS = {"agent": 25 * MIB, "control-plane": 45 * MIB}
COMMANDS = {"agent": ["postrider-agent"], "control-plane": ["postrider", "postrider-control-plane"]}


def files(root):
    """All files by their path in the image; links are not followed."""
    return {str(path.relative_to(root)): path for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def inside(root, *command):
    """Runs a program on the root filesystem alone, as the images' user, without an environment."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", f"--root={root}", "--setgid=65532", "--setuid=65532"]
    return subprocess.run([*unshare, *command], env={}, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("image", images.IMAGES)
def test_an_image_has_the_programs_and_what_they_need_and_nothing_to_run_else(roots, image):
    root = roots[image]
    found = files(root)
    runnable = {path for path, file in found.items() if file.is_file() and os.access(file, os.X_OK)}
    commands = {f"usr/local/bin/{command}" for command in COMMANDS[image]}
    assert {path for path in runnable if ".so" not in path} == commands, "no shell, no package manager"
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 100
    assert "nonroot:x:65532:65532" in (root / "etc/passwd").read_text()
    assert {file.stat().st_uid for file in found.values() if not file.is_symlink()} == {0}
    assert not [path for path, file in found.items() if not file.is_symlink() and file.stat().st_mode & 0o7022]


@pytest.mark.parametrize("image", images.IMAGES)
def test_the_libraries_of_an_image_are_known_to_scanners(roots, image):
    root = roots[image]
    packages = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert packages == {"ca-certificates", "libc6", "libgcc-s1"}
    assert all((root / "usr/share/doc" / package / "copyright").is_file() for package in packages)


@pytest.mark.parametrize("image", images.IMAGES)
def test_an_image_is_small(roots, image):
    size = sum(file.stat().st_size for file in (roots[image] / "usr/local/bin").iterdir() if not file.is_symlink())
    print(f"{image}: {size / MIB:.1f} MiB")
    assert size <= LIMITS[image], f"{size / MIB:.1f} MiB"


@pytest.mark.parametrize("image", images.IMAGES)
def test_each_command_runs_by_its_name(roots, image):
    for command in COMMANDS[image]:
        ended = inside(roots[image], f"/usr/local/bin/{command}", "--version")
        assert (ended.returncode, ended.stdout.split()[0]) == (0, command), ended.stderr


@pytest.mark.parametrize("image", images.IMAGES)
def test_the_dockerfile_ships_what_the_script_lays_out(image):
    stages = images.stages()
    program = f"images/rootfs.sh {image} target/dist /rootfs/{image}"
    assert ("RUN", program) in stages["build"]
    lines = stages[image]
    assert lines[0] == ("FROM", f"scratch AS {image}")
    copied = [argument for word, argument in lines if word in ("COPY", "ADD", "RUN")]
    assert copied == [f"--from=build /rootfs/{image} /"]


@pytest.mark.parametrize("image", images.IMAGES)
def test_the_dockerfile_says_what_the_chart_relies_on(roots, image):
    config = images.config(image)
    values = yaml.safe_load((images.ROOT / f"helm/{image}/values.yaml").read_text())
    security = values["podSecurityContext"]
    assert (config["user"], config["group"]) == (security["runAsUser"], security["runAsGroup"])
    (program,) = config["entrypoint"]
    assert (roots[image] / program.lstrip("/")).exists() and program.endswith(f"postrider-{image}")
    assert config["environment"] == {"PATH": "/usr/local/bin"}
    labels = " ".join(argument for word, argument in images.stages()[image] if word == "LABEL")
    for name in ("title", "description", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_script_refuses_what_it_does_not_know(tmp_path):
    ended = subprocess.run([images.ROOT / "images/rootfs.sh", "else", tmp_path, tmp_path / "root"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "there is no image 'else'" in ended.stderr
