"""The images, without a container engine: what the Dockerfile says of them, and their root filesystems by the script that it runs."""

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "images/Dockerfile"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROGRAMS = ("postrider", "postrider-agent")
IMAGES = ("control-plane", "agent")


def stages():
    """The lines of the Dockerfile by stage: each a word and its argument, continued lines as one."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    lines = [tuple(line.split(" ", 1)) for line in text.splitlines() if line.strip()]
    found, stage = {}, None
    for word, argument in lines:
        if word == "FROM":
            stage = argument.rsplit(" AS ", 1)[1]
            found[stage] = []
        if stage is not None:
            found[stage].append((word, argument))
    return found


def config(image):
    """What the image tells a runtime: entry point, environment, user and group."""
    lines = stages()[image]
    said = {word: argument for word, argument in lines if word in ("ENTRYPOINT", "USER")}
    user, group = said["USER"].split(":")
    return {
        "entrypoint": json.loads(said["ENTRYPOINT"]),
        "environment": dict(argument.split("=", 1) for word, argument in lines if word == "ENV"),
        "user": int(user),
        "group": int(group),
    }


def strip_programs(folder):
    """The release builds without what debuggers need, as they are shipped."""
    folder.mkdir()
    for program in PROGRAMS:
        source = TARGET / "release" / program
        assert source.is_file(), f"{source} is missing; build it with `make build`"
        subprocess.run(["strip", "-o", folder / program, source], check=True)
    return folder


def lay(image, programs, root):
    """The root filesystem of an image."""
    subprocess.run([ROOT / "images/rootfs.sh", image, programs, root], check=True)
    return root
