"""Where the API server is and how to speak with it: from kubeconfig files, or from a pod's service account.

The official client's loader costs 15 MiB in every process. This one reads what clusters use today; the providers that
kubectl itself dropped (``auth-provider``) are refused by name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from scheduler.apiserver import credentials

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE = 4 * 1024 * 1024

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
"""One certificate of a bundle; texts between them may be in any language, which OpenSSL does not take."""

Entry = Mapping[str, Any]


class KubeconfigError(ValueError):
    """A kubeconfig cannot be used; the message names file and field."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server.

    Attributes
    ----------
    authority : str
        Certificates (PEM) to trust; "" for those of the system.
    certificate, key : str
        The client's own (PEM); "" for none.
    server_name : str
        Name in the server's certificate where it is not that of the address.
    """

    server: str
    credentials: credentials.Credentials = credentials.Fixed()
    authority: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True
    server_name: str = ""
    proxy: str = ""

    def tls(self) -> ssl.SSLContext | bool:
        """Return what the connection needs; False without TLS. Raises `KubeconfigError` for what is no PEM."""
        if not self.server.startswith("https"):
            return False
        try:
            context = ssl.create_default_context(cadata="\n".join(CERTIFICATE.findall(self.authority)) or None)
            if self.certificate:
                with tempfile.NamedTemporaryFile("w", prefix="muster-client-") as file:  # of mode 0600, gone at once
                    file.write(f"{self.certificate}\n{self.key}\n")
                    file.flush()
                    context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise KubeconfigError(f"API server {self.server}: its authority or our certificate: {error}") from error
        if self.authority and not CERTIFICATE.search(self.authority):
            raise KubeconfigError(f"API server {self.server}: its authority has no certificate in it")
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


async def find(path: Path | None = None, context: str | None = None) -> Access:
    """Return the access by a given file; else by the service account that is mounted; else by the user's own files.

    Raises
    ------
    KubeconfigError, CredentialError
    """
    if path is not None:
        return await read([path], context)
    if (ACCOUNT / "token").exists():
        return in_cluster(ACCOUNT, os.environ)
    return await read(own_files(), context)


def own_files() -> list[Path]:
    """Return the user's kubeconfig files, as kubectl finds them."""
    named = [Path(one) for one in os.environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    return named or [Path.home() / ".kube/config"]


def namespace(paths: Sequence[Path], context: str | None = None) -> str:
    """Return the namespace of the current context, or of a named one; ``default`` where it has none.

    Raises
    ------
    KubeconfigError
    """
    merged = _Merged(paths)
    return merged.entry("contexts", "context", context or merged.current).text("namespace") or "default"


def in_cluster(account: Path, variables: Mapping[str, str]) -> Access:
    """Return the access of a pod's service account; its token is renewed in its file."""
    host, port = variables.get("KUBERNETES_SERVICE_HOST", ""), variables.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise KubeconfigError(
            "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set although a service account is mounted;"
            " name a kubeconfig with --kubeconfig"
        )
    address = f"[{host}]" if ":" in host else host
    token = credentials.TokenFile(account / "token")
    return Access(f"https://{address}:{port}", token, _text(account / "ca.crt", "certificate of the API server"))


async def read(paths: Sequence[Path], context: str | None = None) -> Access:
    """Return the access by the current context, or a named one; of entries with one name the first file's is taken."""
    merged = _Merged(paths)
    chosen = merged.entry("contexts", "context", context or merged.current)
    cluster = merged.entry("clusters", "cluster", chosen.text("cluster"))
    user = merged.entry("users", "user", chosen.text("user")) if chosen.text("user") else _Named({}, "user", paths[0])
    server = cluster.text("server").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise cluster.error("server", f"{server!r} is no address; it begins with https://")
    found = Access(
        server,
        authority=cluster.pem("certificate-authority"),
        certificate=user.pem("client-certificate"),
        key=user.pem("client-key"),
        verify=not cluster.fields.get("insecure-skip-tls-verify", False),
        server_name=cluster.text("tls-server-name"),
        proxy=cluster.text("proxy-url"),
    )
    return await _with_credentials(found, user)


async def _with_credentials(found: Access, user: _Named) -> Access:
    """Add what says who the user is: ``exec``, then ``tokenFile``, then ``token``, then name and password."""
    if "auth-provider" in user.fields:
        raise user.error("auth-provider", "not supported, as in kubectl since 1.26; use exec, a token or a certificate")
    if "exec" in user.fields:
        program = user.program()
        given = await program.given()
        certificate, key = given.certificate or found.certificate, given.key or found.key
        return replace(found, credentials=program, certificate=certificate, key=key)
    if user.text("tokenFile"):
        return replace(found, credentials=credentials.TokenFile(user.path(user.text("tokenFile"))))
    if user.text("token"):
        return replace(found, credentials=credentials.Fixed(f"Bearer {user.text('token')}"))
    if user.text("username"):
        pair = f"{user.text('username')}:{user.text('password')}".encode()
        return replace(found, credentials=credentials.Fixed(f"Basic {base64.b64encode(pair).decode()}"))
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """One context, cluster or user; paths in it start at the folder of its file."""

    fields: Entry
    name: str
    file: Path

    def error(self, field: str, problem: str) -> KubeconfigError:
        return KubeconfigError(f"kubeconfig {self.file}: {self.name}.{field}: {problem}")

    def text(self, field: str) -> str:
        value = self.fields.get(field) or ""
        if not isinstance(value, str):
            raise self.error(field, f"must be a text, not {type(value).__name__}")
        return value

    def path(self, named: str) -> Path:
        return self.file.parent / Path(named).expanduser()

    def pem(self, field: str) -> str:
        """Return certificates or a key, from the field with ``-data`` or from the file that the field names."""
        data = self.text(f"{field}-data")
        if not data:
            return _text(self.path(self.text(field)), f"{self.name}.{field}") if self.text(field) else ""
        try:
            return base64.b64decode(data, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise self.error(f"{field}-data", "is no base64 of a PEM text") from error

    def program(self) -> credentials.Program:
        """Return the credential plugin; a name with a slash starts at the file's folder, others are looked for in PATH."""
        asked = self.fields["exec"]
        if not isinstance(asked, dict) or not isinstance(asked.get("command"), str):
            raise self.error("exec.command", "missing")
        if asked.get("apiVersion") not in credentials.VERSIONS:
            raise self.error(
                "exec.apiVersion", f"{asked.get('apiVersion')!r}; one of {', '.join(credentials.VERSIONS)}"
            )
        command = asked["command"]
        if "/" in command:
            command = str(self.path(command))
        variables = {str(one["name"]): str(one["value"]) for one in asked.get("env") or ()}
        argv = [command, *(str(each) for each in asked.get("args") or ())]
        return credentials.Program(argv, asked["apiVersion"], variables)


class _Merged:
    """Several files as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._files = [(path, _parsed(path)) for path in paths if path.exists() or len(paths) == 1]
        self.current = next((str(x["current-context"]) for _, x in self._files if x.get("current-context")), "")

    def entry(self, group: str, kind: str, name: str) -> _Named:
        """Return what a list of the files has under a name."""
        for path, content in self._files:
            for one in content.get(group) or ():
                if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(kind) or {}, dict):
                    return _Named(one.get(kind) or {}, f"{kind} {name!r}", path)
        files = ", ".join(map(str, self._paths))
        raise KubeconfigError(f"kubeconfig {files}: {group}: none is called {name!r}")


def _parsed(path: Path) -> Entry:
    try:
        found = yaml.safe_load(_text(path, "kubeconfig"))
    except yaml.YAMLError as error:
        raise KubeconfigError(f"kubeconfig {path}: {error}") from error
    if not isinstance(found, dict):
        raise KubeconfigError(f"kubeconfig {path}: no mapping at its top; see kubectl config view")
    return found


def _text(path: Path, what: str) -> str:
    """Return the contents of a small file."""
    try:
        with path.open("rb") as file:
            found = file.read(MAX_FILE + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"{what}: {path} cannot be read: {error}") from error
    if len(found) > MAX_FILE:
        raise KubeconfigError(f"{what}: {path} has more than {MAX_FILE} bytes")
    return found
