"""A private Dovecot that does nothing but check passwords: over a Unix socket, TCP, and TLS."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..ports import free_port


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dovecot.example.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


class Tunnel:
    """TLS before a Unix socket, as stunnel gives: Dovecot 2.3 ignores ``ssl = yes`` on listeners of its auth service."""

    def __init__(self, certificate: Path, key: Path, path: str) -> None:
        self._path = path
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(plain,), daemon=True).start()

    def _carry(self, plain: socket.socket) -> None:
        plain.settimeout(60.0)
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as outer,
            socket.socket(socket.AF_UNIX) as inner,
        ):
            inner.connect(self._path)
            outer.setblocking(False)
            while True:
                select.select([outer, inner], [], [], 5.0)
                with contextlib.suppress(ssl.SSLWantReadError, BlockingIOError):
                    while piece := outer.recv(4096):
                        inner.sendall(piece)
                    return
                with contextlib.suppress(BlockingIOError):
                    if not (piece := inner.recv(4096, socket.MSG_DONTWAIT)):
                        return
                    outer.sendall(piece)
        plain.close()


class Dovecot:
    """Started by start(); users maps names to passwords."""

    def __init__(self, users: dict[str, str]) -> None:
        # Unix socket paths are short.
        self.directory = Path(tempfile.mkdtemp(prefix="dovecot-"))
        self.directory.chmod(0o755)
        self.certificate, key = make_certificate(self.directory)
        self.port, self.ssl_port = free_port(), free_port()
        self.socket = self.directory / "run" / "auth-client"
        self.master_socket = self.directory / "run" / "auth-master"
        (self.directory / "users").write_text("".join(f"{name}:{{PLAIN}}{word}\n" for name, word in users.items()))
        self.configuration = self.directory / "dovecot.conf"
        self.configuration.write_text(f"""
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.directory}/log
protocols =
ssl = yes
ssl_cert = <{self.certificate}
ssl_key = <{key}
disable_plaintext_auth = yes
auth_mechanisms = plain login
auth_verbose = yes
auth_failure_delay = 0
auth_username_chars =
passdb {{
  driver = passwd-file
  args = {self.directory}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener auth-client {{
    mode = 0666
  }}
  unix_listener auth-master {{
    mode = 0666
  }}
  inet_listener plain {{
    address = 127.0.0.1
    port = {self.port}
  }}
  inet_listener with_ssl {{
    address = 127.0.0.1
    port = {self.ssl_port}
    ssl = yes
  }}
}}
""")
        self._process: subprocess.Popen[bytes] | None = None
        self._tunnel = Tunnel(self.certificate, key, str(self.socket))
        self.tls_port = self._tunnel.port

    def start(self) -> None:
        program = shutil.which("dovecot") or "/usr/sbin/dovecot"
        self._process = subprocess.Popen([program, "-F", "-c", str(self.configuration)], stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while not all(map(_listens, (self.socket, self.master_socket))):
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < end, "Dovecot does not come up"
            time.sleep(0.05)

    def stop(self) -> None:
        self._tunnel.close()
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=60)
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if os.path.exists(path) else ""


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
