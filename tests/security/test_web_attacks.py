"""The web page, asked by somebody who writes his requests by hand."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

from respool.sidecar.web.passwords import hash_line
from tests.integration.test_web import PASSWORD, Site

POST = b"POST %b HTTP/1.1\r\nHost: %b\r\n%bContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("web")
    passwords = directory / "passwords"
    passwords.write_text(hash_line("op", PASSWORD) + "\n")
    passwords.chmod(0o600)
    made = Site(directory, f'password_file = "{passwords}"\nsecure_cookie = false')
    made.put("please hold")
    made.drain()
    made.start()
    yield made
    made.stop()


def raw(site: Site, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def host(site: Site) -> bytes:
    return b"127.0.0.1:%d" % site.port


def log_in(site: Site, cookie: str = "") -> str:
    """The cookie that a log-in gives to a client that had cookie before."""
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)) as connection:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url}
        body = urlencode({"name": "op", "password": PASSWORD})
        connection.request("POST", "/login", body, {**headers, **({"Cookie": cookie} if cookie else {})})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 303, content
        return (answer.getheader("Set-Cookie") or "").partition(";")[0]


@pytest.fixture(scope="module")
def cookie(site: Site) -> bytes:
    return log_in(site).encode()


def test_a_token_that_was_there_before_the_log_in_is_none_after_it(site: Site) -> None:
    planted = "respool=" + "A" * 43
    first, second = log_in(site, planted), log_in(site, planted)
    assert len({planted, first, second}) == 3
    assert site.request("GET", "/", None, Cookie=planted)[0] == 303
    assert site.request("GET", "/", None, Cookie=first)[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"Origin: null\r\n",
        b"Origin: http://evil.example\r\n",
        b"Origin: http://%b.evil.example\r\n",
        b"Origin: http://%b@evil.example\r\n",
        # No address that urllib reads.
        b"Origin: http://[\r\n",
        b"Origin: http://%b]\r\n",
    ],
)
def test_a_form_of_nobodys_is_refused(site: Site, cookie: bytes, origin: bytes) -> None:
    if b"%b" in origin:
        origin = origin % host(site)
    (message_id,) = site.ids("held")
    name = next((site.directory / "state" / "held").iterdir()).name.encode()
    for path in (b"/login", b"/logout", b"/queue/held/%b/drop" % name):
        answer = raw(site, POST % (path, host(site), origin + b"Cookie: " + cookie + b"\r\n", 7, b"token=x"))
        assert answer.startswith(b"HTTP/1.1 403 "), answer[:200]
    # Its own origin alone is not enough either.
    own = b"Origin: http://%b\r\nCookie: %b\r\n" % (host(site), cookie)
    assert raw(site, POST % (b"/queue/held/%b/drop" % name, host(site), own, 7, b"token=x")).startswith(
        b"HTTP/1.1 403 "
    )
    assert site.ids("held") == [message_id]


@pytest.mark.parametrize(
    "path",
    [b"/static/../app.py", b"/static/..%2fapp.py", b"/static/%2e%2e/passwords.py", b"/static//etc/passwd", b"/static/..%5capp.py",
     b"/queue/held/..%2f..%2fledger", b"/queue/../../respool.toml", b"/queue/held/%00", b"/queue/ledger/x", b"/queue/held/%ff%fe/text",
     b"/queue/held/1xV9Va-000000-00.1%0a/text", b"//evil.example/", b"/queue/%2e%2e/x", b"/find?id=%00%0d%0aSet-Cookie:x=1",
     b"/queue/held?page=-1", b"/queue/held?page=" + b"9" * 5000, b"/queue/held?done=%3Cscript%3E"],
)  # fmt: skip
def test_a_path_leads_nowhere_else(site: Site, cookie: bytes, path: bytes) -> None:
    answer = raw(
        site, b"GET %b HTTP/1.1\r\nHost: %b\r\nCookie: %b\r\nConnection: close\r\n\r\n" % (path, host(site), cookie)
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) in {200, 303, 307, 400, 404, 405}, head
    for leaked in (b"import annotations", b"root:x:", b"scrypt", b"state_directory", b"Traceback", b"<script"):
        assert leaked not in body
    assert b"evil.example" not in head
    assert b"Set-Cookie:x" not in head
    if b" 200 " in head.splitlines()[0]:
        assert b"default-src 'none'" in head


def test_requests_that_are_none(site: Site) -> None:
    for request in (
        b"\0" * 100 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ):  # fmt: skip
        assert b"Traceback" not in raw(site, request)
    big = b"x" * 20_000
    origin = b"Origin: http://%b\r\n" % host(site)
    assert raw(site, POST % (b"/login", host(site), origin, len(big), big)).startswith(b"HTTP/1.1 413 ")
    assert site.request("GET", "/login")[0] == 200
    assert "Traceback" not in Path(site.directory / "web.log").read_text()
