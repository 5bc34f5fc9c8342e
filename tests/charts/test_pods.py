"""What the pods are: safe, probed, given time to stop, with everything there that they name."""

import re
import tomllib

import programs
import pytest
from conftest import CASES
from control_plane_cases import PEM
from rendering import (
    CHARTS,
    containers,
    objects,
    of_kind,
    pods,
    rendered,
    settings_text,
    texts_in,
    workload,
)

VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}


def test_every_container_is_restricted(values, found):
    open_shift = values.get("podSecurityContext")
    for pod in pods(found):
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert open_shift or (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (65532,) * 3
        assert security["fsGroupChangePolicy"] == "OnRootMismatch"
        assert all(VOLUMES & set(volume) for volume in pod["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_every_container_asks_for_what_it_needs_with_a_limit_of_memory_and_none_of_cpu(found):
    for pod in pods(found):
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "cpu" not in container["resources"]["limits"]
            assert "memory" in container["resources"]["limits"]


def test_the_account_has_no_token(found):
    for account in of_kind(found, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
        assert all(pod["serviceAccountName"] == account["metadata"]["name"] for pod in pods(found))


def test_the_image_is_the_charts_version_or_what_the_values_pin(chart, values, found):
    image = values.get("image", {})
    tag = image.get("tag") or programs.version()
    expected = f"{image.get('repository', f'ghcr.io/postrider/{chart}')}:{tag}" + (
        f"@{image['digest']}" if "digest" in image else ""
    )
    for pod in pods(found):
        (main,) = [one for one in pod["containers"] if one["name"] in (chart, "test")]
        assert main["image"] == expected
        assert pod.get("imagePullSecrets", []) == values.get("imagePullSecrets", [])


def test_start_life_and_readiness_are_probed_apart(chart, found):
    main = main_container(chart, found)
    ports = {port["name"] for port in main["ports"]}
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[probe]["httpGet"]["port"] == "admin" and "admin" in ports
        paths[probe] = main[probe]["httpGet"]["path"]
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    startup, liveness = (
        (main[probe]["periodSeconds"] * main[probe]["failureThreshold"]) for probe in ("startupProbe", "livenessProbe")
    )
    assert startup > liveness >= 30


def test_the_ports_are_those_that_the_settings_listen_on(chart, found):
    settings = tomllib.loads(settings_text(found))
    listening = {
        name: int(settings[key].rsplit(":", 1)[1])
        for name, key in (("api", "api_listen"), ("agents", "agent_listen"), ("admin", "admin_listen"))
        if key in settings
    }
    assert {port["name"]: port["containerPort"] for port in main_container(chart, found)["ports"]} == listening


def test_there_is_time_to_stop_in(found):
    grace = int(tomllib.loads(settings_text(found))["shutdown_grace"].removesuffix("s"))
    assert (
        programs.LONGEST_ATTEMPT
        < grace
        <= workload(found)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] - 10
    )


def test_the_programs_know_every_variable(chart, found):
    for pod in pods(found):
        for container in pod["containers"]:
            given = [one["name"] for one in container.get("env", [])]
            assert len(set(given)) == len(given)
            assert set(given) - of_the_pod(container) <= programs.variables(chart)
            assert container["name"] not in (chart, "test") or given


def test_the_programs_know_every_setting(chart, found):
    settings = tomllib.loads(settings_text(found))
    assert set(flattened(settings)) <= programs.settings(chart)


def test_every_file_that_is_named_is_mounted(chart, found):
    for pod in pods(found):
        for container in [one for one in pod["containers"] if one["name"] in (chart, "test")]:
            files = mounted_files(pod, container, found)
            named = {
                one["value"].removeprefix("file:")
                for one in container["env"]
                if "/etc/postrider/" in one.get("value", "")
            }
            if "POSTRIDER_CONFIG" in str(container["env"]) or "POSTRIDER_AGENT_CONFIG" in str(container["env"]):
                named |= set(re.findall(r'"(?:file:)?(/etc/postrider/[^"]+)"', settings_text(found)))
            assert named and {path for path in named if not is_there(path, files)} == set()


@pytest.mark.of("control-plane")
def test_the_first_admin_token_is_mounted_while_it_is_enabled_and_may_be_missing(chart, values, found):
    enabled = values["bootstrapToken"].get("enabled", True)
    program, *tests = pods(found)
    for pod, wanted in [(program, enabled)] + [(pod, enabled and "token" not in values.get("client", {})) for pod in tests]:
        mounted = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "bootstrap-token"]
        assert [secret["secretName"] for secret in mounted] == ["our-token"] * wanted
        # Its secret may be deleted after the first start.
        assert all(secret["optional"] is True for secret in mounted)
    assert ("bootstrap_token_file" in tomllib.loads(settings_text(found))) == enabled


@pytest.mark.of("control-plane")
def test_the_notes_say_how_to_replace_the_first_admin_token_and_who_may_connect(chart, values):
    notes = rendered(chart, values)["NOTES.txt"]
    enabled = values["bootstrapToken"].get("enabled", True)
    for step in ("--set bootstrapToken.enabled=false", "kubectl delete secret our-token", "tokens revoke"):
        assert (step in notes) == enabled
    policy = values.get("networkPolicy", {})
    guarded = policy.get("enabled", True)
    assert ("everybody who reaches the pod" in notes) == (not guarded)
    for name in ("apiFrom", "agentsFrom"):
        assert ("narrow it with networkPolicy." + name in notes) == (guarded and name not in policy)


def test_every_mount_has_a_volume_and_every_volume_a_mount(found):
    claims = {claim["metadata"]["name"] for claim in workload(found)["spec"].get("volumeClaimTemplates", [])}
    for pod in pods(found):
        volumes = [volume["name"] for volume in pod["volumes"]]
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert len(set(volumes)) == len(volumes)
        assert set(volumes) <= mounts <= set(volumes) | claims


def test_secrets_are_files_of_roots_that_the_pods_group_reads(found):
    for pod in pods(found):
        for volume in pod["volumes"]:
            source = volume.get("secret") or volume.get("configMap")
            if source:
                assert source["defaultMode"] == 0o440


def test_every_secret_and_config_map_is_there_or_named_in_the_values(values, found):
    made = {one["metadata"]["name"] for one in of_kind(found, "ConfigMap")} | {
        one["spec"]["secretName"] for one in of_kind(found, "Certificate")
    }
    for pod in pods(found):
        sources = [volume[kind] for volume in pod["volumes"] for kind in ("secret", "configMap") if kind in volume]
        names = {source.get("secretName") or source["name"] for source in sources}
        names |= {
            one["valueFrom"]["secretKeyRef"]["name"]
            for container in pod["containers"]
            for one in container.get("env", [])
            if "secretKeyRef" in one.get("valueFrom", {})
        }
        assert names <= made | texts_in(values)


def test_variables_with_secrets_come_from_secrets(found):
    for pod in pods(found):
        variables = [one for container in pod["containers"] for one in container.get("env", [])]
        secret = [one for one in variables if re.search("TOKEN$|KEK$|JOIN$|PROXY_URL$|PASSWORD", one["name"])]
        assert all("secretKeyRef" in one["valueFrom"] for one in secret)


@pytest.mark.parametrize("chart", CHARTS)
def test_settings_restart_the_pods_and_nothing_else_does(chart):
    def checksum(over):
        return workload(objects(chart, CASES[chart].GOOD["least"] | over))["spec"]["template"]["metadata"]

    plain = checksum({})
    assert plain != checksum({"log": {"filter": "warn"}})
    authorities = [checksum({"traces": {"endpoint": "https://otel:4317", "ca": {"pem": pem}}}) for pem in (PEM, PEM + PEM)]
    assert authorities[0] != authorities[1]
    for over in (
        {"commonAnnotations": {"a": "b"}},
        {"networkPolicy": {"enabled": False}},
        {"prometheusRule": {"enabled": True}},
    ):
        assert plain == checksum(over)


def test_placement_is_passed_on(chart, values, found):
    pod = workload(found)["spec"]["template"]["spec"]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName"):
        assert pod.get(name) == values.get(name)
    labels = workload(found)["spec"]["template"]["metadata"]["labels"]
    for constraint in pod.get("topologySpreadConstraints", []):
        selector = constraint["labelSelector"]["matchLabels"]
        assert selector.items() <= labels.items() or selector == {"own": "one"}


def test_extras_are_there(values, found):
    pod = workload(found)["spec"]["template"]["spec"]
    main = pod["containers"][0]
    for name, place in (
        ("extraEnv", main.get("env")),
        ("extraEnvFrom", main.get("envFrom")),
        ("extraVolumeMounts", main["volumeMounts"]),
        ("extraVolumes", pod["volumes"]),
        ("extraContainers", pod["containers"]),
        ("initContainers", pod.get("initContainers")),
    ):
        for extra in values.get(name, []):
            assert extra in place
    wanted = len(values.get("extraObjects", []))
    assert len([one for one in found if one["metadata"]["name"].endswith(("-more", "-text"))]) == wanted


@pytest.mark.of("agent")
def test_the_agents_egress_settings_mean_what_they_say(chart, values, found, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(settings_text(found))
    told, _ = programs.run(
        "postrider", "egress", "check", "--config", str(file), "https://hooks.example.com/", "http://10.1.2.3:8080/"
    )
    egress = values.get("egress", {})
    inside = "10.0.0.0/8" in egress.get("allowCidrs", [])
    assert told.startswith("allow ok https://hooks.example.com/"), told
    assert ("allow ok http://10.1.2.3:8080/" in told) == inside, told


def test_helm_test_runs_the_charts_own_image_once(chart, values, found):
    client = values.get("client", {})
    token = values.get("bootstrapToken", {}).get("existingSecret") or "token" in client
    certificate = "clientCa" not in values.get("tls", {}) or "certificate" in client
    tests = of_kind(found, "Pod")
    assert len(tests) == (chart == "agent" or bool(token and certificate))
    for test in tests:
        assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert test["spec"]["restartPolicy"] == "Never"
        (container,) = test["spec"]["containers"]
        calls = {"control-plane": ["/usr/local/bin/postrider", "doctor"], "agent": ["config", "check"]}
        assert container.get("command", container.get("args")) == calls[chart]


def main_container(chart, found):
    (main,) = [one for one in workload(found)["spec"]["template"]["spec"]["containers"] if one["name"] == chart]
    return main


def of_the_pod(container):
    """Variables with what Kubernetes knows of the pod, which other variables are made of."""
    return {one["name"] for one in container.get("env", []) if "fieldRef" in one.get("valueFrom", {})}


def flattened(table, above=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{above}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                yield from flattened(one, f"{above}{key}.")
        else:
            yield above + key


def mounted_files(pod, container, found):
    """The paths at which a container finds files; a folder stands for a secret of which every entry is mounted."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(found, "ConfigMap")}
    paths = set()
    for mount in container["volumeMounts"]:
        for volume in [one for one in pod["volumes"] if one["name"] == mount["name"]]:
            source = volume.get("secret") or volume.get("configMap") or {}
            items = source.get("items")
            for item in items or []:
                own = maps.get(source.get("name"), {item["key"]: ""})
                assert item["key"] in own, f"{item} is not in the ConfigMap"
                paths.add(f"{mount['mountPath']}/{item['path']}")
            if not items:
                paths.add(mount["mountPath"])
    return paths


def is_there(path, files):
    """In a secret of which every entry is mounted, what a kubernetes.io/tls secret has is there."""
    folder, _, name = path.rpartition("/")
    return path in files or folder in files and name in ("tls.crt", "tls.key")
