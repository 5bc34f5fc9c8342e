"""Values for the agent's chart: those that it renders, and those that it refuses, with what it says."""

from control_plane_cases import PEER, PEM, SIDECAR
from rendering import merged

SECRETS = {"join": {"existingSecret": "our-join"}}

# Put over SECRETS.
GOOD = {
    "least": {},
    "names": {
        "nameOverride": "ag",
        "fullnameOverride": "hooks",
        "commonLabels": {"team": "a"},
        "commonAnnotations": {"owner": "b"},
    },
    "a tag and pull secrets": {
        "image": {"tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "a digest": {"image": {"repository": "mirror.example.com/agent", "digest": "sha256:" + "b" * 64}},
    "without volumes": {"state": {"persistence": {"enabled": False}}, "join": {"key": "string"}, "replicas": 5},
    "volumes": {
        "state": {
            "persistence": {
                "size": "1Gi",
                "storageClass": "slow",
                "labels": {"a": "b"},
                "annotations": {"c": "d"},
                "retention": {"whenDeleted": "Retain"},
            }
        },
    },
    "another way to the control plane": {
        "controlPlane": {
            "url": "https://postrider.example.com:443",
            "serverName": "agents.internal",
            "ca": {"configMap": "cp-ca"},
            "proxy": {"url": "http://proxy:3128", "noProxy": [".svc"]},
        },
    },
    "a proxy with a password": {
        "controlPlane": {"proxy": {"existingSecret": "proxy-url", "noProxy": ["10.0.0.0/8"]}, "ca": {"pem": PEM}}
    },
    "inside alone": {
        "egress": {
            "allowCidrs": ["10.0.0.0/8", "fd00::/8", "192.0.2.7"],
            "allowHosts": ["vault", "*.svc"],
            "allowPorts": [443, 8080],
            "allowHttp": True,
            "denyCidrs": ["10.0.0.1", "fd00::1"],
            "nat64Prefixes": ["2001:db8:64::/96"],
        },
        "networkPolicy": {"publicEndpoints": False},
    },
    "all that is dangerous": {
        "egress": {
            "allowCidrs": ["169.254.0.0/16"],
            "dangerouslyAllowLinkLocalAndMetadata": True,
            "denyCidrs": ["198.51.100.0/24"],
        }
    },
    "an authority for all endpoints": {"egress": {"ca": {"secret": "corp-ca", "key": "bundle.pem"}}},
    "a proxy to endpoints": {
        "egress": {
            "proxy": {
                "url": "http://proxy.corp:3128",
                "existingSecret": "proxy-user",
                "noProxy": ["*.svc"],
                "dangerouslyLeaveNamesToProxy": True,
            }
        },
        "networkPolicy": {"proxyTo": PEER},
    },
    "no IPv6": {"egress": {"denyCidrs": ["::/0"]}},
    "credentials": {
        "egress": {
            "credentials": [
                {"hosts": ["*.svc"], "ca": {"configMap": "internal-ca"}, "headers": {"existingSecret": "headers"}},
                {"hosts": ["a.example"], "clientCertificate": {"existingSecret": "client"}, "ca": {"pem": PEM}},
                {
                    "hosts": ["b.example", "10.0.0.0/8"],
                    "headers": {"existingSecret": "headers", "key": "b"},
                    "allowHttp": True,
                    "keepResponses": True,
                },
            ],
        },
    },
    "settings": {
        "settings": {
            "streams": 4,
            "max_in_flight": 2048,
            "max_in_flight_bytes": "256MiB",
            "threads": 4,
            "dns_servers": ["10.0.0.2", "10.0.0.3:5353", "[fd00::53]:54"],
            "name": 'edge "1"',
        },
        "log": {"format": "human", "filter": "warn"},
        "shutdownGraceSeconds": 90,
        "terminationGracePeriodSeconds": 100,
        "listenAddress": "[::]",
    },
    "monitoring": {
        "podMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "relabelings": [{"action": "labeldrop", "regex": "pod"}],
        },
        "networkPolicy": {"metricsFrom": PEER},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "traces": {
        "traces": {"endpoint": "https://otel.example.com", "headers": {"existingSecret": "otel"}, "ca": {"pem": PEM}}
    },
    "a narrow network": {
        "networkPolicy": {
            "dnsTo": PEER,
            "controlPlaneTo": [{"ipBlock": {"cidr": "203.0.113.7/32"}}],
            "controlPlanePort": 443,
            "metricsFrom": PEER,
            "extraEgress": [{"ports": [{"port": 8126}]}],
        },
    },
    "metrics without a PodMonitor": {"networkPolicy": {"metricsFrom": PEER}},
    "a PodMonitor without a network policy": {"podMonitor": {"enabled": True}, "networkPolicy": {"enabled": False}},
    "no network policy, budget or account": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
    },
    "places": {
        "nodeSelector": {"zone": "dmz"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
                ]
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 2,
                "topologyKey": "rack",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"own": "one"}},
            }
        ],
        "priorityClassName": "critical",
        "runtimeClassName": "gvisor",
        "podLabels": {"mesh": "off"},
        "podAnnotations": {"a": "b"},
        "podDisruptionBudget": {"maxUnavailable": "50%"},
    },
    "extras": {
        "extraEnv": [{"name": "POSTRIDER_AGENT_LOG_FILTER", "value": "debug"}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "extraContainers": [SIDECAR],
        "initContainers": [{**SIDECAR, "name": "first"}],
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-more", "namespace": "web"},
                "data": {"a": "b"},
            }
        ],
    },
    "OpenShift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "inside another chart": {"global": {"imageRegistry": "whatever"}},
}
GOOD = {name: merged(SECRETS, values) for name, values in GOOD.items()}

# Put over SECRETS too; with a part of what is said.
REFUSED = {
    "no join token": (
        {"join": {"existingSecret": ""}},
        "kubectl create secret generic postrider-join --namespace web --from-file=join=join",
    ),
    "no join token, and three agents": (
        {"join": {"existingSecret": ""}, "replicas": 3},
        "join-tokens create --pool default --uses 3 --lifetime 1h",
    ),
    "no join token, and no volumes": (
        {"join": {"existingSecret": ""}, "state": {"persistence": {"enabled": False}}},
        "--uses 1000 --lifetime 366d",
    ),
    "latest": ({"image": {"tag": "latest"}}, "image.tag is `latest`"),
    "half a digest": ({"image": {"digest": "abc"}}, "at '/image/digest'"),
    "killed too soon": (
        {"terminationGracePeriodSeconds": 75},
        "takes up to 70 s to finish what is under way, so it must be at least 80",
    ),
    "shorter than an attempt": ({"shutdownGraceSeconds": 30}, "at '/shutdownGraceSeconds'"),
    "a control plane in the clear": ({"controlPlane": {"url": "http://cp:7071"}}, "at '/controlPlane/url'"),
    "a password in values": (
        {"controlPlane": {"proxy": {"url": "http://u:p@proxy:3128"}}},
        "controlPlane.proxy.url has a user in it",
    ),
    "a password for endpoints in values": (
        {"egress": {"proxy": {"url": "http://u:p@proxy:3128"}}},
        "name that in egress.proxy.existingSecret",
    ),
    "two proxies": (
        {"controlPlane": {"proxy": {"url": "http://p:1", "existingSecret": "p"}}},
        "both say where the proxy is",
    ),
    "beside no proxy": ({"controlPlane": {"proxy": {"noProxy": ["a"]}}}, "controlPlane.proxy.noProxy needs a proxy"),
    "a user of no proxy": (
        {"egress": {"proxy": {"existingSecret": "a"}}},
        "the values of egress.proxy need egress.proxy.url",
    ),
    "credentials of nothing": (
        {"egress": {"credentials": [{"hosts": ["a.b"]}]}},
        "egress.credentials[0] has no credentials",
    ),
    "credentials for nobody": (
        {"egress": {"credentials": [{"hosts": [], "headers": {"existingSecret": "a"}}]}},
        "at '/egress/credentials/0/hosts'",
    ),
    "a secret without a name": (
        {"egress": {"credentials": [{"hosts": ["a.b"], "headers": {}}]}},
        "missing property 'existingSecret'",
    ),
    "two authorities": (
        {"egress": {"credentials": [{"hosts": ["a.b"], "ca": {"secret": "a", "configMap": "b"}}]}},
        "egress.credentials[0].ca has more than one",
    ),
    "headers of no traces": ({"traces": {"headers": {"existingSecret": "a"}}}, "traces.headers needs traces.endpoint"),
    "an authority of traces in the clear": (
        {"traces": {"endpoint": "http://otel:4317", "ca": {"pem": PEM}}},
        "traces.ca needs an endpoint with https://",
    ),
    "metrics for nobody": (
        {"podMonitor": {"enabled": True}},
        "networkPolicy.metricsFrom is not set, so podMonitor.enabled could scrape nothing",
    ),
    "probes that reach nothing": (
        {"listenAddress": "127.0.0.1"},
        "listenAddress is 127.0.0.1, which the kubelet's probes cannot reach",
    ),
    "no range": ({"egress": {"allowCidrs": ["10.0.0.0/33"]}}, "at '/egress/allowCidrs/0'"),
    "no port": ({"egress": {"allowPorts": [0]}}, "at '/egress/allowPorts/0'"),
    "a budget of nothing": (
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        "at '/podDisruptionBudget/maxUnavailable'",
    ),
    "a setting of the chart's": (
        {"settings": {"state_dir": "/state"}},
        "additional properties 'state_dir' not allowed",
    ),
    "a pool": ({"settings": {"pool": "acme"}}, "additional properties 'pool' not allowed"),
    "a slip": ({"egress": {"allowCIDRs": []}}, "additional properties 'allowCIDRs' not allowed"),
    "too many streams": ({"settings": {"streams": 17}}, "at '/settings/streams'"),
}
REFUSED = {name: (merged(SECRETS, values), said) for name, (values, said) in REFUSED.items()}
