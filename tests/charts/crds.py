"""Of the kinds that are not Kubernetes' own: the parts of their schemas that the charts use, as their projects define them."""

TEXT, TEXTS, BOOL = (
    {"type": "string", "minLength": 1},
    {"type": "array", "minItems": 1, "items": {"type": "string"}},
    {"type": "boolean"},
)
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
HOSTS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 16,
    "items": {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"},
}


def closed(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(item, **more):
    return {"type": "array", "minItems": 1, "items": item, **more}


SELECTOR = closed(["matchLabels"], matchLabels={"type": "object", "minProperties": 2})
PARENTS = listed(
    closed(["name"], name=TEXT, namespace=TEXT, sectionName=TEXT, port={"type": "integer"}, group=TEXT, kind=TEXT)
)
BACKENDS = listed(closed(["name", "port"], name=TEXT, port={"type": "integer"}))
ROUTE = closed(
    ["parentRefs", "hostnames", "rules"],
    parentRefs=PARENTS,
    hostnames=HOSTS,
    rules=listed(closed(["backendRefs"], backendRefs=BACKENDS), maxItems=1),
)
RELABELINGS = {"type": "array", "items": {"type": "object", "required": ["action"]}}
ENDPOINTS = listed(
    closed(
        ["port", "path"],
        port=TEXT,
        path={"const": "/metrics"},
        interval=DURATION,
        scrapeTimeout=DURATION,
        relabelings=RELABELINGS,
        metricRelabelings=RELABELINGS,
    )
)
NAMESPACES = closed(["matchNames"], matchNames=TEXTS)
RULE = closed(
    ["expr"],
    alert=TEXT,
    record=TEXT,
    expr={"type": ["string", "integer"]},
    labels={"type": "object"},
    annotations={"type": "object"},
    keep_firing_for=DURATION,
    **{"for": DURATION},
)

BACKEND_TLS = closed(
    ["targetRefs", "validation"],
    targetRefs=listed(
        closed(
            ["group", "kind", "name"], group={"const": ""}, kind={"const": "Service"}, name=TEXT, sectionName=TEXT
        )
    ),
    validation={
        **closed(
            ["hostname"],
            hostname=TEXT,
            caCertificateRefs=listed(
                closed(["group", "kind", "name"], group={"const": ""}, kind={"const": "ConfigMap"}, name=TEXT)
            ),
            wellKnownCACertificates={"const": "System"},
        ),
        "oneOf": [{"required": ["caCertificateRefs"]}, {"required": ["wellKnownCACertificates"]}],
    },
)

SPECS = {
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): ROUTE,
    ("gateway.networking.k8s.io/v1", "TLSRoute"): ROUTE,
    ("gateway.networking.k8s.io/v1alpha2", "TLSRoute"): ROUTE,
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"): BACKEND_TLS,
    ("gateway.networking.k8s.io/v1alpha3", "BackendTLSPolicy"): BACKEND_TLS,
    ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy"): closed(
        ["targetRefs", "timeout"],
        targetRefs=listed(
            closed(
                ["group", "kind", "name"],
                group={"const": "gateway.networking.k8s.io"},
                kind={"const": "GRPCRoute"},
                name=TEXT,
            )
        ),
        timeout=closed(
            ["http"], http=closed(requestTimeout=DURATION, maxStreamDuration=DURATION, streamIdleTimeout=DURATION)
        ),
    ),
    ("cert-manager.io/v1", "Certificate"): closed(
        ["secretName", "issuerRef", "dnsNames"],
        secretName=TEXT,
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=closed(
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"enum": [256, 384, 521]},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        usages={"type": "array", "items": {"enum": ["server auth", "digital signature", "key encipherment"]}},
        dnsNames=TEXTS,
        issuerRef=closed(["name", "kind", "group"], name=TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=TEXT),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        ["selector", "endpoints"], selector=SELECTOR, namespaceSelector=NAMESPACES, endpoints=ENDPOINTS
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        ["selector", "podMetricsEndpoints"],
        selector=SELECTOR,
        namespaceSelector=NAMESPACES,
        podMetricsEndpoints=ENDPOINTS,
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        ["groups"],
        groups={"type": "array", "items": closed(["name", "rules"], name=TEXT, interval=DURATION, rules=listed(RULE))},
    ),
}
