"""The programs themselves take the settings that the charts render, with files where the pods would have them."""

import datetime
import os
import zlib

import programs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rendering import of_kind, workload

POD_ADDRESS = "10.1.2.3"
PROGRAM = {"control-plane": "postrider-control-plane", "agent": "postrider-agent"}


@pytest.fixture(scope="session")
def contents():
    """What stands in a file, by its name, or by how the name of its volume begins or ends."""
    key = ec.generate_private_key(ec.SECP256R1())
    token, _ = programs.run("postrider", "tokens", "generate")
    join = f"prj_01h455vb4pex5vsknk084sn02q_{'0123456789abcdef' * 4}"
    join = f"agents.example.com:7071/{join}{zlib.crc32(join.encode()):08x}/{'ab' * 32}\n"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "tls.key": private.decode(),
        "tls.crt": certificate(key),
        "ca": certificate(key),
        "token": token,
        "join": join,
        "headers": "authorization: Bearer x\n",
        "proxy": "user:password\n",
    }


def certificate(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "charts")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        key, hashes.SHA256()
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_the_program_takes_its_settings(chart, found, contents, tmp_path):
    pod = workload(found)["spec"]["template"]["spec"]
    (container,) = [one for one in pod["containers"] if one["name"] == chart]
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(found, "ConfigMap")}
    for volume in pod["volumes"]:
        lay_out(volume, maps, contents, tmp_path)
    environment = {one["name"]: value_of(one) for one in container["env"]}
    environment = {name: placed(text, tmp_path) for name, text in environment.items()}
    output, code = programs.run(PROGRAM[chart], "config", "check", env={**os.environ, **environment})
    assert code == 0 and "the settings are fine" in output, output


def value_of(variable):
    """A variable as Kubernetes sets it: what it knows of the pod, put in where a value names it, or a secret."""
    if "fieldRef" in variable.get("valueFrom", {}):
        return POD_ADDRESS
    return variable.get("value", "http://user:password@proxy:3128").replace("$(POD_IP)", POD_ADDRESS)


def lay_out(volume, maps, contents, folder):
    """Makes the files of a volume, as private as Kubernetes makes them."""
    source = volume.get("secret") or volume.get("configMap")
    if source:
        names = [item["path"] for item in source["items"]] if "items" in source else ["tls.crt", "tls.key"]
    else:
        # What a sidecar writes into an empty volume.
        names = ["token"] if volume["name"] == "vault" else []
    (folder / volume["name"]).mkdir()
    for name in names:
        file = folder / volume["name"] / name
        if volume["name"].startswith("kek"):
            programs.run("postrider", "secrets", "generate-kek", str(file))
        elif name.endswith(".toml"):
            file.write_text(placed(maps[source["name"]][name], folder))
        else:
            file.write_text(contents.get(name) or contents[volume["name"].rpartition("-")[2]])
        file.chmod(0o400)


def placed(text, folder):
    """A text with the pod's paths as they are here."""
    return text.replace("/etc/postrider", str(folder)).replace('"/vault/', f'"{folder}/vault/')
