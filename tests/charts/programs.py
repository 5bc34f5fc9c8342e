"""What the programs know, read from their sources: their settings, and the environment's variables behind them."""

import functools
import os
import re
import subprocess
from pathlib import Path

from rendering import REPOSITORY

SOURCES = {
    "control-plane": [REPOSITORY / "control-plane/src/config.rs", REPOSITORY / "control-plane/src/lib.rs"],
    "agent": [REPOSITORY / "agent/src/config/args.rs"],
}
# The longest attempt that a subscription may ask for, in seconds.
LONGEST_ATTEMPT = int(
    re.search(
        r"MAX_TIMEOUT: Duration = Duration::from_secs\((\d+)\)", (REPOSITORY / "domain/src/subscription.rs").read_text()
    )[1]
)
# Variables that libraries read.
OF_LIBRARIES = {"SSL_CERT_FILE", "VAULT_TOKEN"}


def version():
    """The version of the workspace."""
    return re.search(r'^\[workspace\.package\]\nversion = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.M)[1]


@functools.cache
def variables(program):
    """The environment's variables that a program reads. `postrider` is in the control plane's image too."""
    sources = SOURCES[program] + (sorted((REPOSITORY / "cli/src").rglob("*.rs")) if program == "control-plane" else [])
    return OF_LIBRARIES.union(*(re.findall(r'env = "([A-Z_]+)"', path.read_text()) for path in sources))


@functools.cache
def settings(program):
    """The names of a program's settings, as its file has them, with a dot for each table."""
    if program == "control-plane":
        struct = re.search(r"pub struct Settings \{(.*?)\n\}", SOURCES[program][0].read_text(), re.S)[1]
        return set(re.findall(r"pub (\w+): Option<", struct))
    arguments = SOURCES[program][0].read_text()
    egress = (REPOSITORY / "agent/src/config/egress.rs").read_text()
    entries = {f"egress.credentials.{name}" for name in re.findall(r'key\("(\w+)"\)', egress)}
    return set(re.findall(r"/// `([a-z0-9_.]+)`:", arguments)) | entries


def run(program, *arguments, **options):
    """A release build of one of the programs: what it printed, and its exit code."""
    path = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"), "release", program)
    assert path.exists(), f"{path} is missing; `make build` builds it"
    ended = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, **options)
    return ended.stdout + ended.stderr, ended.returncode
