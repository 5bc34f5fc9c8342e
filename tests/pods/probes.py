"""Probes over HTTP, as a kubelet makes them."""

import threading
import time
import urllib.error
import urllib.request

TICK = 0.1


class Prober(threading.Thread):
    """Asks a pod until it has started, then whether it lives and whether it is ready. What does not live is ended."""

    def __init__(self, pod):
        super().__init__(daemon=True)
        self.pod, self.ready, self.failed = pod, False, None
        self.stopped = threading.Event()
        self.start()

    def stop(self):
        self.stopped.set()
        self.join()
        self.ready = False

    def run(self):
        startup = Probe(self.pod, "startupProbe")
        while not startup.passes:
            if startup.has_failed or self.stopped.wait(TICK):
                return self.end("startupProbe") if startup.has_failed else None
            startup.ask_when_due()
        liveness, readiness = Probe(self.pod, "livenessProbe"), Probe(self.pod, "readinessProbe")
        while not self.stopped.wait(TICK):
            liveness.ask_when_due()
            readiness.ask_when_due()
            self.ready = readiness.passes
            if liveness.has_failed:
                return self.end("livenessProbe")
        return None

    def end(self, name):
        """The container has failed a probe that it must not fail."""
        self.failed, self.ready = name, False
        self.pod.process.kill()


class Probe:
    """One of a container's probes. It passes from its first success on, until it has failed as often as it may."""

    def __init__(self, pod, name):
        self.probe = pod.container[name]
        request = self.probe["httpGet"]
        self.url = pod.url(request["port"], request["path"])
        self.due, self.failures, self.passes = 0.0, 0, False

    @property
    def has_failed(self):
        return self.failures >= self.probe["failureThreshold"]

    def ask_when_due(self):
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.probe["periodSeconds"]
        status, _ = http_get(self.url, self.probe["timeoutSeconds"])
        if status is not None and 200 <= status < 400:
            self.failures, self.passes = 0, True
        else:
            self.failures += 1
            self.passes = self.passes and not self.has_failed


def http_get(url, timeout):
    """Status and text; no status when there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)
