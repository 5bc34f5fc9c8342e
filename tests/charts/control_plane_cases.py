"""Values for the control plane's chart: those that it renders, and those that it refuses, with what it says."""

from rendering import merged

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SECRETS = {
    "kek": {"existingSecret": "our-kek"},
    "bootstrapToken": {"existingSecret": "our-token"},
    "tls": {"existingSecret": "our-tls"},
}
PARENT = [{"name": "edge", "namespace": "gateways", "sectionName": "grpc"}]
PEER = [{"namespaceSelector": {"matchLabels": {"team": "orders"}}}]
GATEWAYS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}]
EVERYBODY = [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}, {"namespaceSelector": {}}]
SIDECAR = {
    "name": "vault-agent",
    "image": "vault:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
}

# Put over SECRETS.
GOOD = {
    "least": {},
    "names": {
        "nameOverride": "cp",
        "fullnameOverride": "hooks",
        "commonLabels": {"team": "a"},
        "commonAnnotations": {"owner": "b"},
    },
    "a tag and pull secrets": {
        "image": {"tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "a digest": {"image": {"repository": "mirror.example.com/cp", "digest": "sha256:" + "a" * 64}},
    "cert-manager": {
        "tls": {
            "existingSecret": "",
            "certManager": {
                "enabled": True,
                "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"},
                "dnsNames": ["api.example.com"],
            },
        },
    },
    "cert-manager and a public authority": {
        "tls": {
            "existingSecret": "",
            "certManager": {
                "enabled": True,
                "issuerRef": {"name": "letsencrypt"},
                "serviceNames": False,
                "dnsNames": ["api.example.com"],
            },
        },
        "client": {"url": "https://api.example.com:7070"},
    },
    "kek in rotation": {
        "kek": {
            "key": "second",
            "former": [
                {"existingSecret": "first-kek", "key": "k"},
                {"vault": "https://vault.example.com:8200/transit/keys/old"},
            ],
            "vault": {"existingSecret": "vault-token"},
        }
    },
    "kek in vault": {
        "kek": {
            "existingSecret": "",
            "vault": {
                "key": "https://vault.example.com/transit/keys/postrider",
                "existingSecret": "vault-token",
                "namespace": "team-a",
                "ca": {"configMap": "vault-ca"},
            },
        },
    },
    "kek in vault with a sidecar": {
        "kek": {
            "existingSecret": "",
            "vault": {"key": "https://vault:8200/transit/keys/p", "tokenFile": "/vault/token", "ca": {"pem": PEM}},
        },
        "extraVolumes": [{"name": "vault", "emptyDir": {"medium": "Memory"}}],
        "extraVolumeMounts": [{"name": "vault", "mountPath": "/vault"}],
        "extraContainers": [{**SIDECAR, "volumeMounts": [{"name": "vault", "mountPath": "/vault"}]}],
        "initContainers": [{**SIDECAR, "name": "vault-init"}],
    },
    "without a bootstrap token": {"bootstrapToken": {"enabled": False, "existingSecret": ""}},
    "after the first start": {
        "bootstrapToken": {"enabled": False},
        "client": {"token": {"existingSecret": "postrider-client-token"}},
    },
    "another token for the pod, and the first one still there": {"client": {"token": {"existingSecret": "viewer"}}},
    "clients with certificates": {
        "tls": {"clientCa": {"pem": PEM}},
        "client": {
            "ca": {"secret": "our-tls"},
            "token": {"existingSecret": "viewer"},
            "certificate": {"existingSecret": "client-tls"},
            "url": "https://api.example.com",
        },
    },
    "clients with certificates, and none for the pod": {
        "tls": {"clientCa": {"secret": "clients-ca", "key": "tls.crt"}}
    },
    "authorities of one's own": {"agentCa": {"existingSecrets": ["agents-ca-2", "agents-ca-1"]}},
    "agents from outside": {
        "agents": {"address": "agents.example.com:443", "names": ["agents.internal", "10.1.2.3"]},
        "service": {
            "agents": {
                "type": "LoadBalancer",
                "port": 443,
                "nodePort": 30071,
                "loadBalancerClass": "nlb",
                "loadBalancerSourceRanges": ["203.0.113.0/24"],
                "externalTrafficPolicy": "Local",
                "annotations": {"lb/idle": "350"},
                "labels": {"tier": "edge"},
            },
            "api": {"type": "NodePort", "nodePort": 30070},
        },
        "networkPolicy": {"apiFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "agentsFrom": EVERYBODY},
    },
    "agents from outside, without a network policy": {
        "agents": {"address": "agents.example.com:443"},
        "service": {"agents": {"type": "LoadBalancer", "port": 443}},
        "networkPolicy": {"enabled": False},
    },
    "a gateway": {
        "agents": {"address": "agents.example.com:443"},
        "gateway": {
            "grpcRoute": {
                "enabled": True,
                "parentRefs": PARENT,
                "hostnames": ["api.example.com"],
                "annotations": {"a": "b"},
            },
            "backendTls": {"enabled": True, "caConfigMap": "api-ca"},
            "envoyTimeouts": {"enabled": True},
            "tlsRoute": {"enabled": True, "parentRefs": PARENT, "hostnames": ["agents.example.com"]},
        },
        "networkPolicy": {"apiFrom": GATEWAYS, "agentsFrom": GATEWAYS},
    },
    "an older gateway": {
        "agents": {"address": "agents.example.com:443"},
        "gateway": {
            "tlsRoute": {
                "enabled": True,
                "apiVersion": "gateway.networking.k8s.io/v1alpha2",
                "parentRefs": PARENT,
                "hostnames": ["agents.example.com"],
            },
            "backendTls": {
                "enabled": True,
                "apiVersion": "gateway.networking.k8s.io/v1alpha3",
                "hostname": "api.example.com",
            },
        },
        "networkPolicy": {"agentsFrom": GATEWAYS},
    },
    "an ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["api.example.com"],
            "tls": [{"secretName": "edge-tls", "hosts": ["api.example.com"]}],
        },
        "networkPolicy": {"apiFrom": GATEWAYS},
    },
    "monitoring": {
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "metricRelabelings": [{"action": "labeldrop", "regex": "pool"}],
        },
        "networkPolicy": {"metricsFrom": PEER},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Postrider"}},
    },
    "traces": {
        "traces": {
            "endpoint": "https://otel.monitoring:4317",
            "ratio": 0.1,
            "headers": {"existingSecret": "otel"},
            "ca": {"secret": "otel-ca"},
        }
    },
    "a narrow network": {
        "networkPolicy": {
            "apiFrom": PEER,
            "agentsFrom": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
            "metricsFrom": PEER,
            "dnsTo": PEER,
            "extraEgress": [{"ports": [{"port": 8126}]}],
            "extraIngress": [{"from": PEER}],
        },
    },
    "metrics without a ServiceMonitor": {"networkPolicy": {"metricsFrom": PEER}},
    "a ServiceMonitor without a network policy": {
        "serviceMonitor": {"enabled": True},
        "networkPolicy": {"enabled": False},
    },
    "the admin port on the pod's own address": {
        "extraEnv": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "POSTRIDER_ADMIN_LISTEN", "value": "$(POD_IP):7072"},
        ]
    },
    "no network policy, budget or account": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False, "name": "shared"},
    },
    "storage": {
        "store": {
            "cacheMib": 512,
            "diskReserveMib": 1024,
            "persistence": {
                "size": "1.5Ti",
                "storageClass": "fast",
                "accessModes": ["ReadWriteOncePod"],
                "labels": {"backup": "daily"},
                "annotations": {"x/y": "z"},
                "retention": {"whenDeleted": "Delete", "whenScaled": "Delete"},
            },
        },
    },
    "a claim that is there": {"store": {"persistence": {"existingClaim": "postrider-data"}}},
    "settings": {
        "settings": {
            "retain_events": "90days",
            "retain_audit": "forever",
            "tenant_emit_rate": 500,
            "tenant_emit_burst": 1000000,
            "tenant_delivery_rate": 0,
            "tenant_max_subscriptions": 5000,
            "tenant_max_event_types": 100000,
            "tenant_max_stored_mib": 65536,
            "destination_rate": 0,
            "max_api_connection_age": "never",
            "max_token_calls": 1000,
            "trust_domain": "hooks.example.com",
            "webhook_origin": "hooks.example.com",
            "max_event_kib": 1024,
            "resume_window": "1m 30s",
        },
        "log": {"format": "human", "filter": "info,postrider::attempt=warn"},
        "shutdownGraceSeconds": 120,
        "terminationGracePeriodSeconds": 130,
        "listenAddress": "[::]",
    },
    "places": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "priorityClassName": "critical",
        "runtimeClassName": "gvisor",
        "podLabels": {"mesh": "off"},
        "podAnnotations": {"backup": "yes"},
    },
    "extras": {
        "extraEnv": [
            {"name": "POSTRIDER_LOG", "value": "debug"},
            {"name": "POSTRIDER_SERVER", "value": "https://api"},
        ],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-more", "namespace": "web"},
                "data": {"a": "b"},
            },
            'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ include "postrider.fullname" . }}-text\n  namespace: {{ .Release.Namespace }}\ndata: {a: b}\n',
        ],
    },
    "OpenShift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "inside another chart": {"global": {"imageRegistry": "whatever"}},
}
GOOD = {name: merged(SECRETS, values) for name, values in GOOD.items()}

# Put over SECRETS too; with a part of what is said.
REFUSED = {
    "no kek": (
        {"kek": {"existingSecret": ""}},
        "kubectl create secret generic postrider-kek --namespace web --from-file=kek=kek",
    ),
    "no token": (
        {"bootstrapToken": {"existingSecret": ""}},
        "kubectl create secret generic postrider-bootstrap-token --namespace web --from-file=token=token",
    ),
    "no certificate": (
        {"tls": {"existingSecret": ""}},
        "kubectl create secret tls postrider-api-tls --namespace web --cert=tls.crt --key=tls.key",
    ),
    "two certificates": (
        {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "a"}}}},
        "tls.existingSecret and tls.certManager.enabled are both set",
    ),
    "no issuer": (
        {"tls": {"existingSecret": "", "certManager": {"enabled": True}}},
        "tls.certManager.issuerRef.name is not set",
    ),
    "a certificate without a name": (
        {
            "tls": {
                "existingSecret": "",
                "certManager": {"enabled": True, "issuerRef": {"name": "a"}, "serviceNames": False},
            }
        },
        "the certificate would have no name",
    ),
    "two keks": (
        {"kek": {"vault": {"key": "https://v/transit/keys/k", "existingSecret": "t"}}},
        "Put the other one into kek.former",
    ),
    "a former kek of nothing": ({"kek": {"former": [{}]}}, "kek.former[0] needs either existingSecret or vault"),
    "vault without a token": (
        {"kek": {"existingSecret": "", "vault": {"key": "https://v/transit/keys/k"}}},
        "kubectl create secret generic postrider-vault-token --namespace web",
    ),
    "a former key in vault without a token": (
        {"kek": {"former": [{"vault": "https://v/transit/keys/k"}]}},
        "a key in Vault needs a token",
    ),
    "vault over http": ({"kek": {"vault": {"key": "http://v/transit/keys/k"}}}, "at '/kek/vault/key'"),
    "latest": ({"image": {"tag": "latest"}}, "image.tag is `latest`"),
    "half a digest": ({"image": {"digest": "sha256:abc"}}, "at '/image/digest'"),
    "two replicas": ({"replicas": 2}, "at '/replicas': value must be 1"),
    "no replica": ({"replicas": 0}, "at '/replicas'"),
    "another store": ({"store": {"kind": "postgresql"}}, "at '/store/kind'"),
    "killed too soon": (
        {"terminationGracePeriodSeconds": 80},
        "terminationGracePeriodSeconds is 80: the program takes up to 75 s to finish what is under way, so it must be at least 85",
    ),
    "shorter than an attempt": ({"shutdownGraceSeconds": 60}, "at '/shutdownGraceSeconds'"),
    "a load balancer nobody finds": ({"service": {"agents": {"type": "LoadBalancer"}}}, "agents.address is not set"),
    "an API for everybody, by a load balancer": (
        {"service": {"api": {"type": "LoadBalancer"}}},
        "networkPolicy.apiFrom is not set, and service.api.type=LoadBalancer exposes that port",
    ),
    "an API for everybody, by a node port": (
        {"service": {"api": {"type": "NodePort"}}},
        "networkPolicy.apiFrom is not set, and service.api.type=NodePort exposes that port",
    ),
    "an API for everybody, by a route": (
        {"gateway": {"grpcRoute": {"enabled": True, "parentRefs": PARENT, "hostnames": ["a.b"]}}},
        "networkPolicy.apiFrom is not set, and gateway.grpcRoute exposes that port",
    ),
    "an API for everybody, by an ingress": (
        {"ingress": {"enabled": True, "hosts": ["a.b"]}},
        "networkPolicy.apiFrom is not set, and ingress exposes that port",
    ),
    "agents from everywhere, by a load balancer": (
        {"agents": {"address": "a.b:443"}, "service": {"agents": {"type": "LoadBalancer"}}},
        "agentsFrom: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: \"::/0\"}}, {namespaceSelector: {}}]",
    ),
    "agents from everywhere, by a node port": (
        {"agents": {"address": "a.b:443"}, "service": {"agents": {"type": "NodePort"}}},
        "networkPolicy.agentsFrom is not set, and service.agents.type=NodePort exposes that port",
    ),
    "agents from everywhere, by a route": (
        {
            "agents": {"address": "a.b:443"},
            "gateway": {"tlsRoute": {"enabled": True, "parentRefs": PARENT, "hostnames": ["a.b"]}},
        },
        "networkPolicy.agentsFrom is not set, and gateway.tlsRoute exposes that port",
    ),
    "metrics for nobody": (
        {"serviceMonitor": {"enabled": True}},
        "networkPolicy.metricsFrom is not set, so serviceMonitor.enabled could scrape nothing",
    ),
    "probes that reach nothing": (
        {"listenAddress": "127.0.0.1"},
        "listenAddress is 127.0.0.1, which the kubelet's probes cannot reach",
    ),
    "probes that reach nothing, on IPv6": (
        {"listenAddress": "[::1]"},
        "listenAddress is [::1], which the kubelet's probes cannot reach",
    ),
    "a route nobody finds": (
        {"gateway": {"tlsRoute": {"enabled": True, "parentRefs": PARENT, "hostnames": ["a.b"]}}},
        "agents.address is not set",
    ),
    "a TLSRoute without a gateway": (
        {"agents": {"address": "a.b:443"}, "gateway": {"tlsRoute": {"enabled": True}}},
        "gateway.tlsRoute needs parentRefs",
    ),
    "a GRPCRoute without a gateway": (
        {"gateway": {"grpcRoute": {"enabled": True}}},
        "gateway.grpcRoute needs parentRefs",
    ),
    "timeouts of no route": (
        {"gateway": {"envoyTimeouts": {"enabled": True}}},
        "gateway.envoyTimeouts is about gateway.grpcRoute",
    ),
    "an ingress without hosts": ({"ingress": {"enabled": True}}, "ingress.hosts is empty"),
    "headers of no traces": (
        {"traces": {"headers": {"existingSecret": "a"}}},
        "traces.headers and traces.ratio need traces.endpoint",
    ),
    "an authority of traces in the clear": (
        {"traces": {"endpoint": "http://otel:4317", "ca": {"secret": "a"}}},
        "traces.ca needs an endpoint with https://",
    ),
    "two authorities": (
        {"tls": {"clientCa": {"pem": PEM, "secret": "a"}}},
        "tls.clientCa has more than one of pem, configMap and secret",
    ),
    "a budget of nothing": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "at '/podDisruptionBudget/maxUnavailable'"),
    "a setting of the chart's": ({"settings": {"data_dir": "/data"}}, "additional properties 'data_dir' not allowed"),
    "a slip": ({"kek": {"existingsecret": "a"}}, "additional properties 'existingsecret' not allowed"),
    "a slip at the top": ({"replica": 1}, "additional properties 'replica' not allowed"),
    "a number for a text": ({"log": {"filter": 3}}, "at '/log/filter'"),
    "a port out of bounds": ({"service": {"api": {"port": 70000}}}, "at '/service/api/port'"),
}
REFUSED = {name: (merged(SECRETS, values), said) for name, (values, said) in REFUSED.items()}
