"""A network for pods and a kubelet, in namespaces of the test's own: what Kubernetes does with a chart's objects, as far as pods
see it."""

import socket
import subprocess
import time

from pod import Pod

BRIDGE = "pods"
GATEWAY = "10.244.0.1"
# Long enough for anything on a machine that has much else to do.
PATIENCE = 120


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def eventually(what, look, limit=PATIENCE):
    """Looks again and again until there is something."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(0.1)


class Cluster:
    """Pods on a bridge, secrets, config maps, volumes, and the names of services."""

    def __init__(self, folder, namespace, images):
        others = {name for _, name in socket.if_nameindex()} - {"lo"}
        assert not others, f"run this by `make test`, in a network namespace of its own: here are {sorted(others)}"
        self.folder, self.namespace, self.images = folder, namespace, images
        self.secrets, self.config_maps, self.hosts, self.pods = {}, {}, {}, []
        subprocess.run(["mount", "-t", "tmpfs", "run", "/run"], check=True)
        ip("link", "set", "lo", "up")
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")

    def secret(self, name, **entries):
        self.secrets[name] = {key.replace("_", "."): value for key, value in entries.items()}

    def apply(self, objects):
        """Takes a chart's config maps, and starts the pods of its workload."""
        for one in objects:
            if one["kind"] == "ConfigMap":
                self.config_maps[one["metadata"]["name"]] = one["data"]
        (workload,) = [one for one in objects if one["kind"] in ("StatefulSet", "Deployment")]
        name = workload["metadata"]["name"]
        spec = workload["spec"]
        claims = spec.get("volumeClaimTemplates", [])
        started = [self.start(f"{name}-{number}", spec["template"]["spec"], claims) for number in range(spec["replicas"])]
        for service in [one for one in objects if one["kind"] == "Service"]:
            self.publish(service["metadata"]["name"], started[0].address)
        return started

    def start(self, name, spec, claims=()):
        """A pod, with the claims that its workload makes for it."""
        address = f"10.244.0.{10 + len(self.pods)}"
        pod = Pod(self, name, spec, address, claims)
        self.pods.append(pod)
        ip("netns", "add", name)
        ip("link", "add", f"v{len(self.pods)}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"v{len(self.pods)}", "master", BRIDGE, "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")
        pod.start()
        return pod

    def publish(self, service, address):
        """From now on a service's names lead to a pod. Instead of by DNS, pods find them in /etc/hosts."""
        for name in (service, f"{service}.{self.namespace}", f"{service}.{self.namespace}.svc"):
            self.hosts[name] = address
        for pod in self.pods:
            pod.write_hosts()

    def stop(self):
        """Ends everything at once."""
        for pod in self.pods:
            pod.kill()
