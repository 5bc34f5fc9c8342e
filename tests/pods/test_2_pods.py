"""The charts' pods, from the first start to the last: they enroll, become ready, deliver, drain, and come back."""

import os
import signal
from pathlib import Path

from cluster import eventually
from rendering import objects, of_kind


def status_of(pod):
    lines = Path(f"/proc/{pod.pid}/status").read_text().splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


def test_pods_enroll_with_the_secret_and_deliver(platform):
    platform.emit()
    platform.all_delivered()
    for agent in platform.agents:
        assert agent.get("/readyz") == (200, "ok\n")
        assert agent.get("/livez") == (200, "ok\n")


def test_programs_have_no_rights_and_write_only_to_their_volumes(platform):
    for pod in (platform.control_plane, *platform.agents):
        status = status_of(pod)
        assert set(status["Uid"]) == set(status["Gid"]) == {"65532"}
        assert set(status["Groups"]) == {"65532"}
        rights = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert all(int(value, 16) == 0 for (value,) in rights.values()), rights
        assert status["NoNewPrivs"] == ["1"] and status["NSpid"][-1] == "1"
        mounts = [line.split() for line in Path(f"/proc/{pod.pid}/mounts").read_text().splitlines()]
        writable = {target for _, target, _, options, *_ in mounts if "ro" not in options.split(",")}
        (volume,) = [mount["mountPath"] for mount in pod.container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == {volume, "/etc/hosts", "/etc/resolv.conf", "/proc", "/dev", "/dev/shm"}


def test_the_tests_of_the_control_planes_chart_pass(platform):
    """What `helm test` starts: the command in the control plane's image, calling the API as clients do."""
    (test,) = of_kind(objects("control-plane", platform.values), "Pod")
    pod = platform.cluster.start("helm-test", test["spec"])
    assert pod.process.wait(60) == 0, pod.log


def test_an_agent_that_is_told_to_stop_finishes_what_it_has_and_nothing_is_repeated(platform):
    first, second = platform.agents
    platform.receiver.delay = 1.0
    platform.emit(300)
    eventually("the agents are at work", lambda: platform.receiver.under_way > 50)
    code, took = first.terminate()
    assert code == 0, first.log
    assert took < first.spec["terminationGracePeriodSeconds"]
    platform.all_delivered()
    assert second.ready
    platform.receiver.delay = 0.0


def test_an_agent_that_comes_back_needs_its_volume_alone(platform):
    """The join token is spent, and may be gone."""
    first, _ = platform.agents
    del platform.cluster.secrets["join"]
    first.start()
    platform.is_ready(first)
    platform.emit(20)
    platform.all_delivered()


def test_agents_are_not_ready_without_a_control_plane_and_ready_when_it_is_back(platform):
    platform.emit()
    code, took = platform.control_plane.terminate()
    assert code == 0, platform.control_plane.log
    assert took < platform.control_plane.spec["terminationGracePeriodSeconds"]
    for agent in platform.agents:
        eventually(f"{agent.name} is not ready", lambda agent=agent: not agent.ready)
        status, why = agent.get("/readyz")
        assert status == 503 and "control plane" in why, why
        assert agent.get("/livez") == (200, "ok\n"), "a restart would not help"
    platform.control_plane.start()
    platform.is_ready(platform.control_plane)
    for agent in platform.agents:
        platform.is_ready(agent)
    platform.emit(20)
    platform.all_delivered()
    assert [agent.runs for agent in platform.agents] == [2, 1], "no probe has ended an agent"


def test_a_program_that_hangs_is_found(platform):
    """The liveness probe ends what makes no progress: here, since it is stopped. It asks more often, for the test's sake."""
    _, second = platform.agents
    second.container["livenessProbe"] |= {"periodSeconds": 1, "timeoutSeconds": 1}
    os.kill(second.pid, signal.SIGSTOP)
    eventually("the probe has found it", lambda: second.prober.failed == "livenessProbe")
    second.process.wait()
    second.start()
    platform.is_ready(second)
    platform.emit(20)
    platform.all_delivered_at_least_once()
