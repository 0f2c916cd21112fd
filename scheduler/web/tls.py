"""The server's certificate, read again when its files change: cert-manager renews them while the scheduler runs."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from scheduler import bad_input

Stamp = tuple[tuple[int, int, int], ...]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the server's certificate; with `client_ca` a client must show a certificate signed by it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def files(self) -> tuple[Path, ...]:
        """Return the files that exist for this setting."""
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca is not None else ()))

    def read(self) -> ssl.SSLContext:
        """Return a context of what the files hold now.

        Raises
        ------
        BadInput
            A file is missing or malformed, or the key is another certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            # A resumed session is not held against a new authority. 1.3 without tickets resumes none; 1.2 would by ID.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        file, remedy = self.certificate, f"give a PEM certificate, with its key in {self.key}"
        try:
            context.load_cert_chain(file, self.key)
            if self.client_ca is not None:
                file, remedy = self.client_ca, "give the PEM certificate of the authority that signs those of clients"
                context.load_verify_locations(file)
        except OSError as error:
            raise bad_input.BadInput(f"can't be used for TLS: {error}", file=str(file), remedy=remedy) from None


@dataclass(slots=True, eq=False)
class Renewed:
    """Contexts that follow the files.

    Every handshake looks at the files (some stats, microseconds) and takes what they hold now. A pair that can't be
    read, for example one of which only half is written yet, leaves the last good one in force; it is tried again.
    """

    tls: Tls
    newest: ssl.SSLContext = field(init=False)
    _stamp: Stamp = field(init=False)
    _told: str = ""

    def __post_init__(self) -> None:
        self._stamp, self.newest = (), self.tls.read()  # without a stamp the first handshake reads once more

    def context(self) -> ssl.SSLContext:
        """Return the context to listen with; its connections are handed over to the newest one."""
        first = self.newest
        first.sni_callback = self._handshake
        return first

    def refresh(self) -> None:
        """Read the files again if they have changed."""
        try:
            # The stamp comes first: what is written while we read is read once more at the next handshake.
            stamp = self._stamps()
            if stamp == self._stamp:
                return
            self.newest, self._stamp = self.tls.read(), stamp
        except (OSError, bad_input.BadInput) as error:
            self._tell(str(error))
            return
        self._told = ""
        log.info("certificate read", file=str(self.tls.certificate))

    def _handshake(self, one: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        self.refresh()
        one.context = self.newest

    def _stamps(self) -> Stamp:
        found = [os.stat(path) for path in self.tls.files()]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            log.warning("certificate not read", file=str(self.tls.certificate), problem=problem)
