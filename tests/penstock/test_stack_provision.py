"""What the stack runs is found or fetched, whatever the machine has."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.stack import java, provision
from penstock.stack.java_network import network_options
from tests.conftest import PROJECT


def test_jars_are_complete_and_fetched_once() -> None:
    cache = provision.cache_folder(PROJECT)
    for name in ("kafka-jars", "registry-app", "spark-jars"):
        provision.provide(name, cache, lambda _: None)
    lines: list[str] = []
    kafka = provision.provide("kafka-jars", cache, lines.append)
    spark = provision.provide("spark-jars", cache, lines.append)
    assert lines == []
    assert kafka is not None
    assert spark is not None
    assert (kafka / "kafka_2.13-4.3.0.jar").exists()
    names = {jar.name for jar in spark.iterdir()}
    assert {"delta-spark_4.1_2.13-4.4.0.jar", "delta-storage-4.4.0.jar"} <= names
    assert not any(name.startswith(("hadoop-client", "scala-library")) for name in names)


def test_spark_java_is_the_pinned_one_without_the_unknown_module(tmp_path: Path) -> None:
    bare = {"PATH": "/bin", "HOME": str(tmp_path)}
    home = java.shim(tmp_path)
    command = [str(home / "bin" / "java"), "--add-modules=jdk.incubator.vector", "-version"]
    answer = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert 'version "21' in answer.stderr


def test_old_or_broken_java_is_not_taken_for_one(tmp_path: Path) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    assert java.java_version(old) == 11
    assert java.java_version(tmp_path / "nowhere") == 0
    assert java.java_version(java.pinned_java()) == 21


def test_certificates_and_proxy_of_the_machine_reach_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(certificate_authority("Company of Pipes"))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    options = network_options(tmp_path)
    assert f"-Djavax.net.ssl.trustStore={tmp_path / 'trust-store.p12'}" in options
    assert {"-Dhttps.proxyHost=proxy.example", "-Dhttps.proxyPort=3128"} <= set(options)
    keytool = java.pinned_java().with_name("keytool")
    store = ["-keystore", str(tmp_path / "trust-store.p12"), "-storepass", "changeit"]
    listing = subprocess.run(
        [str(keytool), "-list", "-v", *store], capture_output=True, text=True, check=True
    )
    assert "Owner: CN=Company of Pipes" in listing.stdout
    assert "trustedCertEntry" in listing.stdout


def certificate_authority(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.slow
def test_debian_package_serves_without_being_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("apt-get"):
        pytest.skip("this machine has no Debian packages")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb", "dpkg", "sh", "tar", "xz"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    binary = provision.provide("alertmanager", tmp_path, lambda _: None)
    assert binary is not None
    assert binary.is_relative_to(tmp_path / "debian")
    version = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("alertmanager, version")


def test_failed_download_is_told_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(
        provision.ProvisionError, match=r"^the schema registry .* downloaded\. Check"
    ):
        provision.provide("registry-app", tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [".registry.lock"]
