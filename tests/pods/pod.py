"""One pod, as a kubelet runs it: volumes with their modes, environment, security, probes, and its end within the grace period.

What is supported is what the charts use; anything else fails the test.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
from probes import Prober, http_get

CONTAINER = Path(__file__).with_name("container.py")


class Pod:
    """A pod of one container."""

    def __init__(self, cluster, name, spec, address, claims):
        (container,) = spec["containers"]
        assert not spec.get("initContainers"), "init containers are not emulated"
        self.cluster, self.name, self.spec, self.container, self.address = cluster, name, spec, container, address
        self.claims = {claim["metadata"]["name"] for claim in claims}
        self.folder = cluster.folder / name
        self.folder.mkdir()
        self.image = container["image"].split(":")[0].rsplit("/", 1)[1]
        self.config = images.config(self.image)
        self.process, self.prober, self.runs = None, None, 0

    def start(self):
        """Starts its container, anew if there was one, and its probes."""
        self.runs += 1
        self.write_hosts()
        spec = self.folder / "container.json"
        spec.write_text(json.dumps(self.container_spec()))
        with self.log_file.open("w") as log:
            command = [sys.executable, str(CONTAINER), str(spec)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.prober = Prober(self) if "startupProbe" in self.container else None

    @property
    def ready(self):
        return self.prober.ready and not self.prober.stopped.is_set()

    @property
    def log_file(self):
        return self.folder / f"log.{self.runs}"

    @property
    def log(self):
        return self.log_file.read_text()

    def get(self, path):
        """Asks the admin port: status and text."""
        return http_get(self.url("admin", path), timeout=5)

    def url(self, port, path):
        (number,) = [found["containerPort"] for found in self.container["ports"] if found["name"] == port]
        return f"http://{self.address}:{number}{path}"

    def terminate(self):
        """SIGTERM, and SIGKILL when the grace period is over: how it ended, and after how many seconds."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(self.spec["terminationGracePeriodSeconds"])
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            code = self.process.wait()
        self.prober.stop()
        return code, time.monotonic() - began

    def kill(self):
        """At once, without a word."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.prober is not None:
            self.prober.stop()

    @property
    def pid(self):
        """Of the program, on this machine."""
        return int((self.folder / "pid").read_text())

    def container_spec(self):
        security = self.spec["securityContext"] | self.container["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] != 0
        assert security["capabilities"] == {"drop": ["ALL"]} and security["allowPrivilegeEscalation"] is False
        root = self.folder / f"root.{self.runs}"
        (self.folder / "resolv.conf").write_text("search svc.cluster.local\nnameserver 127.0.0.53\noptions ndots:5\n")
        shutil.copytree(self.cluster.images[self.image], root, symlinks=True)
        known = self.config["environment"] | {"HOSTNAME": self.name}
        return {
            "root": str(root),
            "read_only": security["readOnlyRootFilesystem"],
            "mounts": [*self.mounts(), *([str(self.folder / name), f"/etc/{name}", False] for name in ("hosts", "resolv.conf"))],
            "network": self.name,
            "hostname": self.name,
            "user": security["runAsUser"],
            "group": security["runAsGroup"],
            "groups": [security["runAsGroup"], security["fsGroup"]],
            "command": self.container.get("command", self.config["entrypoint"]) + self.container.get("args", []),
            "environment": known | {variable["name"]: self.value(variable) for variable in self.container["env"]},
            "pid_file": str(self.folder / "pid"),
        }

    def value(self, variable):
        if "value" in variable:
            return variable["value"]
        source = variable["valueFrom"]["secretKeyRef"]
        return self.cluster.secrets[source["name"]][source["key"]]

    def mounts(self):
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            assert mount.keys() <= {"name", "mountPath", "readOnly"}, mount
            folder = self.volume(volumes.get(mount["name"], {"name": mount["name"]}))
            if folder is not None:
                yield [str(folder), mount["mountPath"], mount.get("readOnly", False)]

    def volume(self, volume):
        """A volume's folder: made anew of secrets and config maps, kept if it is the pod's own."""
        folder = self.folder / "volumes" / volume["name"]
        for kind, found, key in (("secret", self.cluster.secrets, "secretName"), ("configMap", self.cluster.config_maps, "name")):
            if kind in volume:
                source = volume[kind]
                entries = found.get(source[key])
                assert entries is not None or source.get("optional"), f"the {kind} {source[key]} is missing: the pod would wait for it"
                return lay_entries(folder, source, entries or {}, self.group)
        assert "emptyDir" in volume or volume["name"] in self.claims, volume
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, 0, self.group)
            # As a fresh file system that fsGroup was applied to; an emptyDir is everybody's.
            folder.chmod(0o2777 if "emptyDir" in volume else 0o2775)
        return folder

    @property
    def group(self):
        return self.spec["securityContext"]["fsGroup"]

    def write_hosts(self):
        lines = ["127.0.0.1 localhost", f"{self.address} {self.name}"]
        lines += [f"{address} {name}" for name, address in self.cluster.hosts.items()]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")


def lay_entries(folder, source, entries, group):
    """A volume of a secret or a config map: files behind links, so that all change at once, read by the pod's group."""
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "..data.1"
    data.mkdir(parents=True)
    items = source.get("items", [{"key": key, "path": key} for key in entries])
    for item in items:
        if source.get("optional") and item["key"] not in entries:
            continue
        file = data / item["path"]
        file.write_text(entries[item["key"]])
        os.chown(file, 0, group)
        file.chmod(source.get("defaultMode", 0o644) | 0o440)
        (folder / item["path"]).symlink_to(f"..data/{item['path']}")
    (folder / "..data").symlink_to("..data.1")
    return folder
