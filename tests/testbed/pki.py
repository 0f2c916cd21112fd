"""One certificate authority for each cluster, and the certificates that it signs for servers on 127.0.0.1 and for clients."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and of its private key."""

    cert: Path
    key: Path


class Authority:
    """A folder with ``ca.crt``, ``ca.key`` and everything signed by it; made once, then read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        folder.mkdir(parents=True, exist_ok=True)
        if self.ca.exists():
            self._key = _load(folder / "ca.key")
            self._cert = x509.load_pem_x509_certificate(self.ca.read_bytes())
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._cert = self._root()
            _write(Pair(self.ca, folder / "ca.key"), self._cert, self._key)

    def issue(self, name: str, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), group: str = "") -> Pair:
        """Sign a certificate for a server on `hosts` and, as a client, for user `name` in a group."""
        pair = Pair(self.folder / f"{_file(name)}.crt", self.folder / f"{_file(name)}.key")
        if pair.cert.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if group:
            subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        built = (
            self._builder(x509.Name(subject), key.public_key())
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
            .add_extension(uses, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        _write(pair, built.sign(self._key, hashes.SHA256()), key)
        return pair

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muster testbed")])
        uses = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        built = self._builder(name, self._key.public_key(), issuer=name)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        return built.add_extension(uses, critical=True).sign(self._key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name | None = None
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return x509.CertificateBuilder(
            issuer_name=issuer or self._cert.subject,
            subject_name=subject,
            public_key=public,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(minutes=5),
            not_valid_after=now + LIFETIME,
        )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), path
    return key


def _write(pair: Pair, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(key.private_bytes(*form))
    pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
