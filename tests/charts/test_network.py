"""Who finds the pods, and who may talk to whom: selectors, services, routes, NetworkPolicies, budgets."""

import ipaddress
import tomllib
from urllib.parse import urlsplit

import pytest
from rendering import of_kind, settings_text, workload

PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "fd12::1", "fe80::1"]


def pod_labels(found):
    return workload(found)["spec"]["template"]["metadata"]["labels"]


def container_ports(found):
    return {
        port["name"]: port["containerPort"]
        for port in workload(found)["spec"]["template"]["spec"]["containers"][0]["ports"]
    }


def test_every_selector_finds_the_pods_and_not_that_of_helm_test(found):
    tests = [pod["metadata"]["labels"] for pod in of_kind(found, "Pod")]
    selectors = [workload(found)["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in of_kind(found, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(found, "PodDisruptionBudget", "PodMonitor")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind(found, "NetworkPolicy")]
    for selector in selectors:
        assert selector and selector.items() <= pod_labels(found).items()
        assert not any(selector.items() <= labels.items() for labels in tests)


def test_selectors_stay_the_same_over_versions(values, found):
    fixed = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert set(workload(found)["spec"]["selector"]["matchLabels"]) == fixed
    for claim in workload(found)["spec"].get("volumeClaimTemplates", []):
        persistence = values.get("store", values.get("state", {})).get("persistence", {})
        assert set(claim["metadata"]["labels"]) == fixed | set(persistence.get("labels", {}))


def test_services_lead_to_ports_that_are_there(chart, found):
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(found, "Service")}
    assert len(services) == {"control-plane": 3, "agent": 0}[chart]
    for service in services.values():
        assert all(port["targetPort"] in container_ports(found) for port in service["ports"])
    if chart == "control-plane":
        headless = services[workload(found)["spec"]["serviceName"]]
        assert headless["clusterIP"] == "None"
        assert {port["name"]: port["port"] for port in headless["ports"]} == container_ports(found)


def test_services_are_as_the_values_say(chart, values, found):
    for target, wanted in values.get("service", {}).items():
        (service,) = [
            one
            for one in of_kind(found, "Service")
            if one["metadata"]["labels"]["app.kubernetes.io/component"] == target
        ]
        spec, (port,) = service["spec"], service["spec"]["ports"]
        for name in ("type", "loadBalancerClass", "loadBalancerSourceRanges", "externalTrafficPolicy"):
            assert name not in wanted or spec[name] == wanted[name]
        assert port.get("nodePort") == wanted.get("nodePort") and port["port"] == wanted.get("port", port["port"])
        assert wanted.get("annotations", {}).items() <= service["metadata"].get("annotations", {}).items()


def test_routes_and_policies_name_services_that_are_there(found):
    services = {
        one["metadata"]["name"]: {port["port"] for port in one["spec"]["ports"]} for one in of_kind(found, "Service")
    }
    routes = {one["metadata"]["name"] for one in of_kind(found, "GRPCRoute")}
    for route in of_kind(found, "GRPCRoute", "TLSRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend["port"] in services[backend["name"]]
        assert (route["kind"] == "TLSRoute") == backend["name"].endswith("-agents")
    for policy in of_kind(found, "BackendTLSPolicy"):
        assert policy["spec"]["targetRefs"][0]["name"] in services
    for policy in of_kind(found, "BackendTrafficPolicy"):
        assert policy["spec"]["targetRefs"][0]["name"] in routes
    for ingress in of_kind(found, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert rule["http"]["paths"][0]["backend"]["service"]["name"] in services


def test_streams_are_left_alone_on_the_way(found):
    for ingress in of_kind(found, "Ingress"):
        annotations = {name.rpartition("/")[2]: text for name, text in ingress["metadata"]["annotations"].items()}
        assert annotations["backend-protocol"] == "GRPCS"
        assert int(annotations["proxy-read-timeout"]) >= 3600 and int(annotations["proxy-send-timeout"]) >= 3600
        assert annotations["proxy-body-size"] == "0"
    for policy in of_kind(found, "BackendTrafficPolicy"):
        http = policy["spec"]["timeout"]["http"]
        assert http["requestTimeout"] == http["maxStreamDuration"] == "0s"


@pytest.mark.of("control-plane")
def test_agents_are_told_where_they_find_the_service(chart, values, found):
    settings = tomllib.loads(settings_text(found))
    (service,) = [
        one for one in of_kind(found, "Service") if one["metadata"]["labels"]["app.kubernetes.io/component"] == "agents"
    ]
    name = service["metadata"]["name"]
    in_cluster = f"{name}.web.svc:{service['spec']['ports'][0]['port']}"
    assert settings["agent_address"] == values.get("agents", {}).get("address", in_cluster)
    assert {name, f"{name}.web", f"{name}.web.svc"} <= set(settings["agent_names"])


@pytest.mark.of("control-plane")
def test_the_first_kek_is_the_current_one(chart, values, found):
    first, *others = tomllib.loads(settings_text(found))["kek"]
    kek = values["kek"]
    assert first == (
        f"file:/etc/postrider/kek/{kek.get('key', 'kek')}" if kek["existingSecret"] else f"vault:{kek['vault']['key']}"
    )
    assert len(others) == len(kek.get("former", []))


def test_a_certificate_has_the_name_by_which_the_pod_calls_the_api(found):
    for certificate in of_kind(found, "Certificate"):
        variables = {
            one["name"]: one.get("value") for one in workload(found)["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert urlsplit(variables["POSTRIDER_SERVER"]).hostname in certificate["spec"]["dnsNames"]


def test_what_scrapes_finds_the_admin_port(found):
    for monitor in of_kind(found, "ServiceMonitor"):
        selected = [
            one
            for one in of_kind(found, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        ]
        assert len(selected) == 1
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in selected[0]["spec"]["ports"]}
    for monitor in of_kind(found, "PodMonitor"):
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in container_ports(found)


def test_monitoring_is_off_unless_it_is_wanted(values, found):
    kinds = {one["kind"] for one in found}
    assert ("PrometheusRule" in kinds) == values.get("prometheusRule", {}).get("enabled", False)
    dashboards = (
        [one for one in of_kind(found, "ConfigMap") if one["metadata"]["labels"].get("grafana_dashboard")]
        if "extraObjects" not in values
        else []
    )
    assert bool(dashboards) == values.get("dashboard", {}).get("enabled", False)


def test_a_budget_never_holds_up_a_drain(chart, values, found):
    budgets = of_kind(found, "PodDisruptionBudget")
    assert len(budgets) == values.get("podDisruptionBudget", {}).get("enabled", True)
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] not in (0, "0%") and "minAvailable" not in budget["spec"]
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.of("agent")
def test_agents_keep_their_identity_or_are_new_each_time(chart, values, found):
    kept = values.get("state", {}).get("persistence", {}).get("enabled", True)
    one = workload(found)
    assert one["kind"] == ("StatefulSet" if kept else "Deployment")
    assert one["spec"]["replicas"] == values.get("replicas", 2)
    (mount,) = [
        mount for mount in one["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "state"
    ]
    # What has served may be removed.
    (join,) = [volume for volume in one["spec"]["template"]["spec"]["volumes"] if volume["name"] == "join"]
    assert join["secret"].get("optional", False) == kept
    # A folder inside the volume: the agent wants one that nobody else may look into.
    assert tomllib.loads(settings_text(found))["state_dir"].startswith(f"{mount['mountPath']}/")


@pytest.mark.of("control-plane")
def test_the_store_is_on_one_volume(chart, values, found):
    spec = workload(found)["spec"]
    (mount,) = [one for one in spec["template"]["spec"]["containers"][0]["volumeMounts"] if one["name"] == "store"]
    # A folder inside the volume, whose root may hold lost+found.
    assert tomllib.loads(settings_text(found))["data_dir"].startswith(f"{mount['mountPath']}/")
    persistence = values.get("store", {}).get("persistence", {})
    claims = spec.get("volumeClaimTemplates", [])
    assert spec["replicas"] == 1 and len(claims) == ("existingClaim" not in persistence)
    for claim in claims:
        assert claim["spec"]["resources"]["requests"]["storage"] == persistence.get("size", "10Gi")
        assert claim["spec"].get("storageClassName") == persistence.get("storageClass")
        assert spec["persistentVolumeClaimRetentionPolicy"] == persistence.get(
            "retention", {"whenDeleted": "Retain", "whenScaled": "Retain"}
        )


def policy_of(found):
    return next(iter(of_kind(found, "NetworkPolicy")), None)


def ports(rule, protocol="TCP"):
    return {port["port"] for port in rule["ports"] if port.get("protocol", "TCP") == protocol}


def test_who_may_come_in(chart, values, found):
    policy = policy_of(found)
    if not policy:
        assert values["networkPolicy"] == {"enabled": False}
        return
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    wanted = values.get("networkPolicy", {})
    assert all("ports" in rule or rule in wanted["extraIngress"] for rule in policy["spec"]["ingress"])
    incoming = {port: rule for rule in policy["spec"]["ingress"] if "ports" in rule for port in ports(rule)}
    assert set(incoming) <= set(container_ports(found))
    assert set(incoming) == {"control-plane": {"api", "agents"}, "agent": set()}[chart] | (
        {"admin"} if "metricsFrom" in wanted else set()
    )
    every_pod = [{"namespaceSelector": {}}]
    for port, rule in incoming.items():
        name = {"api": "apiFrom", "agents": "agentsFrom", "admin": "metricsFrom"}[port]
        own = [peer for peer in rule["from"] if not is_of_helm_test(peer)]
        assert own == wanted.get(name, every_pod)
        assert (own != rule["from"]) == (port == "api")


def is_of_helm_test(peer):
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return labels.get("app.kubernetes.io/name", "").endswith("-test")


def test_where_they_may_go(found):
    policy = policy_of(found)
    if policy:
        dns, *others = policy["spec"]["egress"]
        settings = tomllib.loads(settings_text(found))
        assert {53} | set(ports_of_name_servers(settings)) == ports(dns) == ports(dns, "UDP")
        reachable = {port for rule in others for port in ports(rule)}
        assert set(map(port_of, urls_in(settings))) <= reachable


def urls_in(settings):
    """Whom a program calls, by its settings; endpoints are another matter."""
    yield from (kek.removeprefix("vault:") for kek in settings.get("kek", []) if kek.startswith("vault:"))
    on_the_way = settings.get("proxy", {}).get("url") or settings.get("control_plane")
    proxy = settings.get("egress", {}).get("proxy", {}).get("url")
    traces = settings.get("traces_endpoint") or settings.get("traces", {}).get("endpoint")
    yield from filter(None, (on_the_way, proxy, traces))


def port_of(url):
    return urlsplit(url).port or {"https": 443, "http": 80}[urlsplit(url).scheme]


def ports_of_name_servers(settings):
    for server in settings.get("dns_servers", []):
        if server.count(":") == 1 or "]:" in server:
            yield int(server.rpartition(":")[2])


@pytest.mark.of("agent")
def test_agents_reach_what_their_egress_settings_allow_and_no_private_address_else(values, found):
    policy = policy_of(found)
    if not policy:
        return
    egress = tomllib.loads(settings_text(found))["egress"]
    blocks = [
        (peer["ipBlock"], ports(rule))
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]

    def reachable(address, port):
        return any(
            port in there and covers([block["cidr"]], address) and not covers(block.get("except", []), address)
            for block, there in blocks
        )

    for block, _ in blocks:
        assert "/" in block["cidr"]
        whole = ipaddress.ip_network(block["cidr"])
        # A strict part: the API server takes no other.
        parts = [ipaddress.ip_network(part) for part in block.get("except", [])]
        assert all(part.subnet_of(whole) and part != whole for part in parts)
    for port in egress["allow_ports"]:
        for net in egress["allow_cidrs"]:
            assert reachable(ipaddress.ip_network(net)[0], port)
        public = values.get("networkPolicy", {}).get("publicEndpoints", True)
        for address in ("93.184.215.14", "2606:2800::1"):
            assert reachable(address, port) == (public and not covers(egress["deny_cidrs"], address)), address
    denied = [address for address in ("198.51.100.7", "10.0.0.1") if covers(egress["deny_cidrs"], address)]
    for address in [*PRIVATE, *denied]:
        assert reachable(address, 443) == covers(egress["allow_cidrs"], address)


def covers(nets, address):
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in nets)
