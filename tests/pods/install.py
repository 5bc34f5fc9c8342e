"""A Postrider as its charts install it, with a tenant and a subscription."""

import json
import subprocess

from cluster import GATEWAY, Cluster, eventually
from images import TARGET
from receiver import Receiver
from rendering import NAMESPACE, RELEASE, objects

TENANT = "acme"
# The first pod's.
CONTROL_PLANE = "10.244.0.10"


class Platform:
    """The control plane's pod and those of its agents."""

    def __init__(self, folder, images):
        self.folder = folder
        self.cluster = Cluster(folder, NAMESPACE, images)
        self.receiver = Receiver(GATEWAY)
        self.control_plane, self.agents, self.emitted, self.token = None, [], 0, None
        make_certificates(folder)

    def install_control_plane(self):
        """What an operator does: makes the secrets that the chart wants, and installs it."""
        self.run("secrets", "generate-kek", str(self.folder / "kek"))
        self.cluster.secret("kek", kek=self.file("kek"))
        self.token = self.run("tokens", "generate").strip()
        self.cluster.secret("token", token=self.token)
        self.cluster.secret("api", tls_crt=self.file("tls.crt"), tls_key=self.file("tls.key"))
        self.values = {
            "kek": {"existingSecret": "kek"},
            "bootstrapToken": {"existingSecret": "token"},
            "tls": {"existingSecret": "api"},
            "client": {"ca": {"pem": self.file("ca.crt")}},
        }
        (self.control_plane,) = self.cluster.apply(objects("control-plane", self.values))
        self.is_ready(self.control_plane)

    def install_agents(self):
        """What a customer does: makes a secret of the join token, says what may be reached, and installs the chart."""
        join = self.run("agents", "join-tokens", "create", "--uses", "2").strip().splitlines()[-1]
        self.cluster.secret("join", join=join)
        reach = {"allowCidrs": [f"{GATEWAY}/32"], "allowPorts": [self.receiver.port], "allowHttp": True}
        self.agents = self.cluster.apply(objects("agent", {"join": {"existingSecret": "join"}, "egress": reach}))
        for agent in self.agents:
            self.is_ready(agent)

    def subscribe(self):
        self.run("tenants", "create", TENANT)
        self.run("subscriptions", "create", "--url", self.receiver.url, "--event-types", "order.*", "--max-in-flight", "100")

    def emit(self, count=1):
        """Events over one stream."""
        lines = "\n".join(json.dumps({"number": number}) for number in range(count))
        self.run("emit", "order.placed", "--lines", stdin=lines)
        self.emitted += count

    def all_delivered_at_least_once(self):
        """Waits until the receiver has everything."""
        eventually("everything is delivered", lambda: len(self.receiver.seen) == self.emitted)

    def all_delivered(self):
        """Waits until the receiver has everything, and has it once."""
        self.all_delivered_at_least_once()
        repeated = {event: times for event, times in self.receiver.seen.items() if times != 1}
        assert not repeated, repeated

    def is_ready(self, pod):
        eventually(f"{pod.name} is ready", lambda: pod.ready or self.dead(pod))

    def dead(self, pod):
        assert pod.process.poll() is None, f"{pod.name} has ended:\n{pod.log}"

    def run(self, *arguments, stdin=""):
        """The command, as somebody who may do everything; what it printed."""
        known = {"SERVER": f"https://{CONTROL_PLANE}:7070", "CA": str(self.folder / "ca.crt"), "TOKEN": self.token, "TENANT": TENANT}
        if arguments[0] in ("agents", "tenants"):
            del known["TENANT"]
        environment = {f"POSTRIDER_{name}": value for name, value in known.items() if value}
        command = [TARGET / "release/postrider", *arguments]
        ended = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def file(self, name):
        return (self.folder / name).read_text()

    def stop(self):
        self.cluster.stop()
        self.receiver.stop()


def make_certificates(folder):
    """An authority, and a certificate of it for the API."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(folder, f"req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.crt")
    openssl(folder, f"req -new {key} -subj /CN=api -keyout tls.key -out tls.csr")
    (folder / "names").write_text(f"subjectAltName=DNS:{RELEASE}-control-plane.{NAMESPACE}.svc,IP:{CONTROL_PLANE}\n")
    openssl(folder, "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -days 30 -out tls.crt")


def openssl(folder, arguments):
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
