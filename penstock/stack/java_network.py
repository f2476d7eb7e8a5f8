"""Makes Java's downloads trust and route as the rest of the machine does."""

import os
import ssl
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12Certificate,
    serialize_java_truststore,
)

# A trust store holds public certificates; Java demands a password for it all the same.
_TRUST_STORE_PASSWORD = "changeit"


def network_options(folder: Path) -> list[str]:
    """Java options for a download.

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
