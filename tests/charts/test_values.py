"""What goes into the charts: refusals, the schema, the READMEs, the version."""

import json
import subprocess
import sys

import programs
import pytest
import yaml
from rendering import CHARTS, HELM, Refused, rendered

# Settings that a chart makes of values of its own.
OF_THE_CHART = {
    "control-plane": {
        "data_dir",
        "kek",
        "vault_token_file",
        "vault_namespace",
        "vault_ca",
        "api_listen",
        "agent_listen",
        "admin_listen",
        "tls_cert",
        "tls_key",
        "tls_client_ca",
        "agent_address",
        "agent_names",
        "agent_ca",
        "bootstrap_token_file",
        "insecure_loopback",
        "cache_mib",
        "disk_reserve_mib",
        "shutdown_grace",
        "log_format",
        "log",
        "traces_endpoint",
        "traces_ratio",
        "traces_headers_file",
        "traces_ca",
    },
    "agent": {"join", "join_file", "state_dir", "control_plane", "agent_id", "pool", "admin_listen", "shutdown_grace"},
}


def test_what_cannot_be_used_is_refused_with_a_sentence(chart, refused):
    values, sentence = refused
    with pytest.raises(Refused) as error:
        rendered(chart, values)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("chart", "missing"),
    [("control-plane", ["kek", "bootstrapToken", "tls"]), ("agent", ["join"])],
)
def test_everything_that_is_missing_is_told_at_once(chart, missing):
    with pytest.raises(Refused) as error:
        rendered(chart, {})
    told = str(error.value)
    assert all(f"{name}.existingSecret is not set" in told for name in missing)
    assert told.count("kubectl create secret") == len(missing)


@pytest.mark.parametrize("chart", CHARTS)
def test_no_value_has_a_secret_by_default(chart):
    def walk(value, key=""):
        for name, inner in value.items() if isinstance(value, dict) else ():
            yield from walk(inner, name)
        if key in ("existingSecret", "secret", "pem", "tokenFile"):
            yield value

    secrets = list(walk(defaults(chart)))
    assert len(secrets) > 5 and set(secrets) == {""}


@pytest.mark.parametrize("chart", CHARTS)
def test_values_and_schema_name_the_same_things(chart):
    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    assert sorted(named(defaults(chart), schema, schema)) == []


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_leaves_nothing_open_that_has_names_of_its_own(chart):
    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    open_ones = {
        "/definitions/kubernetes",
        "/definitions/kubernetesList/items",
        "/definitions/texts",
        "/properties/global",
        "/properties/extraEnv/items",
    }
    assert set(left_open(schema)) <= open_ones


@pytest.mark.parametrize("chart", CHARTS)
def test_every_setting_of_the_program_can_be_set_once(chart):
    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    direct = set(schema["properties"]["settings"]["properties"])
    # The agent's tables are made from values of their own.
    known = {name for name in programs.settings(chart) if "." not in name}
    assert direct | OF_THE_CHART[chart] == known
    assert not direct & OF_THE_CHART[chart]


def test_the_readmes_are_current():
    ended = subprocess.run([sys.executable, HELM / "readme.py", "--check"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_the_charts_have_the_programs_version(chart):
    about = yaml.safe_load((HELM / chart / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (programs.version(),) * 2


def test_what_both_charts_share_is_the_same():
    for name in ("_postrider.tpl", "serviceaccount.yaml", "poddisruptionbudget.yaml", "extra.yaml"):
        first, second = ((HELM / chart / "templates" / name).read_text() for chart in CHARTS)
        assert first == second, name


def defaults(chart):
    return yaml.safe_load((HELM / chart / "values.yaml").read_text())


def resolved(schema, root):
    reference = schema.get("$ref")
    return root["definitions"][reference.removeprefix("#/definitions/")] if reference else schema


def named(values, schema, root, above=""):
    """Names that are in the values and not in the schema, or the reverse."""
    schema = resolved(schema, root)
    if schema.get("additionalProperties") is not False or not isinstance(values, dict):
        return
    known = set(schema["properties"]) - {"global"}
    # `settings` has no defaults: the program does.
    missing = known ^ set(values) if above != "/settings" else set(values) - known
    yield from (f"{above}/{name}" for name in missing)
    for name in known & set(values):
        yield from named(values[name], schema["properties"][name], root, f"{above}/{name}")


def left_open(schema, place=""):
    """Where the schema takes names that it does not know."""
    if isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from left_open(inner, f"{place}/{number}")
    if isinstance(schema, dict):
        kinds = schema.get("type", [])
        is_object = "object" in ([kinds] if isinstance(kinds, str) else kinds)
        if is_object and schema.get("additionalProperties") is not False and "/extraObjects" not in place:
            yield place
        for name, inner in schema.items():
            if name not in ("if", "then"):
                yield from left_open(inner, f"{place}/{name}")
