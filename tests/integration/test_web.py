"""``respool web`` in a real browser, over a state directory that a real sidecar has filled."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from respool.sidecar.web.passwords import hash_line
from respool.spool.ids import IdMinter

from ..ports import free_port
from . import judged_site
from .dovecot import Dovecot

pytestmark = pytest.mark.system("chromium", "dovecot")

PASSWORD = "correct horse"
PATIENCE_SECONDS = 60.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
EVIL = (
    b"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n",
    b"<html><head><title>x</title><script>document.title='owned';fetch('http://127.0.0.1:%d/stolen')</script></head>"
    b"<body><img src='http://127.0.0.1:%d/pixel'><h1>Dear &lt;friend&gt;</h1>"
    b"<iframe src='http://127.0.0.1:%d/frame'></iframe>\x1b[2J</body></html>\n",
)


class Site:
    """A sidecar's directories with messages, and ``respool web`` over them."""

    def __init__(self, directory: Path, web: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.configuration = judged_site.set_up(directory, tables=f'[web]\nlisten = "127.0.0.1:{self.port}"\n{web}')
        self._minter = IdMinter(long=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, subject: str, fields: bytes = b"", body: bytes = b"Hello.\n") -> str:
        """A message into the source; its id."""
        message_id = self._minter.mint()
        headers = [(" ", b"Subject: " + subject.encode() + b"\n"), ("F", b"From: A <a@example.test>\n")]
        headers += [(" ", line + b"\n") for line in fields.splitlines()]
        lines = [f"{message_id}-H".encode(), b"mail 8 8", b"<a@example.test>", b"1795000000 0", b"-received_time_usec .5",
                 b"-received_protocol esmtp", b"-body_linecount 1", b"-max_received_linelength 50", b"XX", b"1",
                 b"bob@example.test", b""]  # fmt: skip
        content = (
            b"\n".join(lines) + b"\n" + b"".join(b"%03d%s %s" % (len(raw), flag.encode(), raw) for flag, raw in headers)
        )
        source = self.directory / "source"
        (source / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\n" + body)
        (source / ".new").write_bytes(content)
        (source / ".new").rename(source / message_id.header_name)
        return message_id

    def drain(self) -> None:
        """``respool run --once``."""
        done = subprocess.run([sys.executable, "-m", "respool", "run", "-c", str(self.configuration), "--once"],
                              capture_output=True, check=False, timeout=60)  # fmt: skip
        assert done.returncode in {0, 1}, done.stderr

    def start(self) -> None:
        with (self.directory / "web.log").open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "respool", "web", "-c", str(self.configuration)],
                                             stderr=log)  # fmt: skip
        end = time.monotonic() + 60
        while "web.started" not in self.log():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def log(self) -> str:
        return (self.directory / "web.log").read_text()

    def ids(self, state: str) -> list[str]:
        return sorted(path.name.split(".")[0] for path in (self.directory / "state" / state).iterdir())

    def request(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        """Without a browser: status and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = urlencode(fields) if fields is not None else None
            kind = {"Content-Type": "application/x-www-form-urlencoded"} if fields is not None else {}
            connection.request(method, path, body, {**kind, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Five seconds by default: what a busy machine takes to draw a page says nothing of it.
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert [text for text in complaints if "responded with a status of" not in text] == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"# operators\n{hash_line('anna', PASSWORD)}\n{hash_line('bob', PASSWORD)}\n")
    passwords.chmod(0o640)
    made = Site(tmp_path, f'password_file = "{passwords}"')
    made.start()
    try:
        yield made
    finally:
        made.stop()


def log_in(page: Page, site: Site, name: str = "anna", password: str = PASSWORD) -> None:
    page.goto(site.url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def photograph(page: Page, name: str) -> None:
    """For docs/: only where RESPOOL_SCREENSHOTS names a directory."""
    directory = os.environ.get("RESPOOL_SCREENSHOTS")
    if directory:
        page.screenshot(path=f"{directory}/{name}.png", full_page=True)


def test_held_mail_is_looked_at_released_and_dropped(page: Page, site: Site) -> None:
    released, as_is, dropped = (site.put(f"hold {name}") for name in ("one", "two", "three"))
    deferred, gone = site.put("defer"), site.put("plain")
    site.drain()
    log_in(page, site)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Not running")
    expect(page.locator("a.tile.held b")).to_have_text("3")
    expect(page.locator("a.tile.deferred b")).to_have_text("1")
    page.locator("a.tile.held").click()
    expect(page.locator("tbody tr")).to_have_count(3)

    page.get_by_role("link", name=released).click()
    # What a message says is text, also in the reason.
    expect(page.locator(".journey")).to_contain_text("it says <b>hold</b>")
    expect(page.frame_locator("iframe").locator("body")).to_contain_text("Hello.")
    page.get_by_role("button", name="Release: process again").click()
    expect(page.get_by_role("status")).to_have_text("The message is released.")
    page.get_by_role("link", name=as_is).click()
    page.get_by_role("button", name="Release as it is").click()
    expect(page.get_by_role("status")).to_have_text("The message is released as is.")

    page.get_by_role("link", name=dropped).click()
    page.get_by_role("link", name="Drop…").click()
    page.get_by_role("link", name="Keep it").click()
    assert site.ids("held") == [dropped]
    page.get_by_role("link", name="Drop…").click()
    page.get_by_role("button", name="Drop it").click()
    expect(page.get_by_role("status")).to_have_text("The message is dropped.")
    assert site.ids("held") == []

    page.get_by_role("navigation").get_by_role("link", name="deferred").click()
    page.get_by_role("link", name=deferred).click()
    page.get_by_role("button", name="Try again now").click()
    expect(page.get_by_role("status")).to_have_text("The message is due now.")
    site.drain()
    assert site.ids("deferred") == []
    published = {path.name[:-2] for path in (site.directory / "target").glob("*-H")}
    assert published == {released, as_is, deferred, gone}

    page.get_by_label("message id").fill(dropped)
    page.get_by_role("button", name="Find").click()
    expect(page.locator("main")).to_contain_text("no worker remembers one")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{site.url}/login")
    page.goto(f"{site.url}/queue/held")
    expect(page).to_have_url(f"{site.url}/login")


def test_a_running_sidecar_and_a_journey(page: Page, site: Site) -> None:
    for _number in range(30):
        site.put("plain")
    held = site.put("hold this invoice, =?utf-8?q?=E2=82=AC_50?=")
    with (site.directory / "run.log").open("wb") as log:
        sidecar = subprocess.Popen([sys.executable, "-m", "respool", "run", "-c", str(site.configuration)], stderr=log)
    try:
        end = time.monotonic() + 60
        log_in(page, site)
        while "31 messages" not in page.locator("main").inner_text():
            assert time.monotonic() < end, page.locator("main").inner_text()
            page.reload()
            time.sleep(0.5)
        expect(page.get_by_role("heading", level=1)).to_contain_text("Working")
        expect(page.locator(".chart rect")).not_to_have_count(0)
        photograph(page, "web-overview")
        page.get_by_label("message id").fill(held)
        page.get_by_role("button", name="Find").click()
        journey = page.locator(".journey")
        expect(journey).to_contain_text("Received by Exim")
        expect(journey).to_contain_text("Held by judge.py:Judge")
        expect(journey).to_contain_text("hold, ")
        expect(page.get_by_role("heading", level=1)).to_contain_text("hold this invoice, € 50")
        photograph(page, "web-message")
        (done, *_) = (path.name[:-2] for path in (site.directory / "target").glob("*-H"))
        page.get_by_label("message id").fill(done)
        page.get_by_role("button", name="Find").click()
        expect(page.locator(".journey")).to_contain_text("Requeued")
    finally:
        sidecar.terminate()
        sidecar.wait(60)


def test_a_hostile_message_runs_nothing_and_fetches_nothing(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    fields, body = EVIL
    evil = site.put(
        "hold <script>document.title='owned'</script>\u202egpj.exe", fields, body.replace(b"%d", b"%d" % site.port)
    )
    site.drain()
    log_in(page, site)
    page.goto(f"{site.url}/queue/held")
    page.get_by_role("link", name=evil).click()
    text = page.frame_locator("iframe").locator("body")
    expect(text).to_contain_text("Dear <friend>")
    expect(text).to_contain_text("\\x1b[2J")
    expect(page.get_by_role("heading", level=1)).to_contain_text(
        "<script>document.title='owned'</script>\\u202egpj.exe"
    )
    photograph(page, "web-hostile")
    page.goto(f"{page.url}/text?source")
    expect(page.locator("body")).to_contain_text("<script>document.title='owned'")
    assert page.title() != "owned"
    assert page.evaluate("document.contentType") == "text/plain"
    ours = re.compile(re.escape(site.url) + r"/(queue/.*|static/.*|login|)$")
    assert [url for url in asked if not ours.match(url)] == []


def test_wrong_people_get_nothing(page: Page, site: Site) -> None:
    held = site.put("hold")
    site.drain()
    (name,) = (path.name for path in (site.directory / "state" / "held").iterdir())
    for path in ("/", "/queue/held", f"/queue/held/{name}", f"/queue/held/{name}/text", f"/queue/held/{name}/confirm",
                 f"/find?id={held}"):  # fmt: skip
        status, content = site.request("GET", path)
        assert (status, content) == (303, ""), path
    for action in ("release", "release-as-is", "drop"):
        assert site.request("POST", f"/queue/held/{name}/{action}", {"token": "x"}, Origin=site.url)[0] == 303
    log_in(page, site, password="wrong")
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    log_in(page, site, name="nobody")
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    assert site.ids("held") == [held]


def test_who_may_no_more_log_in_is_logged_out(page: Page, site: Site) -> None:
    held = site.put("hold")
    site.drain()
    (name,) = (path.name for path in (site.directory / "state" / "held").iterdir())
    log_in(page, site)
    page.goto(f"{site.url}/queue/held/{name}")
    (site.directory / "passwords").write_text(hash_line("anna", "another horse"))
    page.get_by_role("button", name="Release: process again").click()
    expect(page).to_have_url(f"{site.url}/login")
    assert site.ids("held") == [held]
    assert '"event":"web.logged_out","user":"anna"' in site.log()
    log_in(page, site, password="another horse")
    page.goto(f"{site.url}/queue/held/{name}")
    (site.directory / "passwords").unlink()
    page.reload()
    expect(page.get_by_text("That did not work: the log says why.")).to_be_visible()
    assert site.ids("held") == [held]


def test_forms_of_others_do_nothing(page: Page, site: Site) -> None:
    held = site.put("hold")
    site.drain()
    (name,) = (path.name for path in (site.directory / "state" / "held").iterdir())
    log_in(page, site)
    page.goto(f"{site.url}/queue/held/{name}")
    cookie: Any
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    token = page.locator("input[name=token]").first.input_value()
    session = f"{cookie['name']}={cookie['value']}"
    path = f"/queue/held/{name}/release"
    assert site.request("POST", path, {"token": "x" * 43}, Cookie=session, Origin=site.url)[0] == 403
    assert site.request("POST", path, {}, Cookie=session, Origin=site.url)[0] == 403
    for origin in ("http://evil.example", "null", f"{site.url}.evil.example", ""):
        assert site.request("POST", path, {"token": token}, Cookie=session, Origin=origin)[0] == 403
    assert site.request("GET", path, Cookie=session)[0] == 405
    assert site.request("POST", path, {"token": token, "x": "y" * 20000}, Cookie=session, Origin=site.url)[0] == 413
    # A page elsewhere that sends the browser's own cookie: SameSite keeps it back, the origin gives it away.
    page.route("http://evil.example/**", lambda route: route.fulfill(
        content_type="text/html",
        body=f'<form method="post" action="{site.url}{path}"><input name="token" value="{token}"></form>'
             "<script>document.forms[0].submit()</script>"))  # fmt: skip
    with page.expect_navigation(url=f"{site.url}/**"):
        page.goto("http://evil.example/", wait_until="commit")
    # What the page asks for next is answered before the site goes away.
    page.wait_for_load_state("networkidle")
    assert site.ids("held") == [held]
    assert site.request("POST", path, {"token": token}, Cookie=session, Origin=site.url)[0] == 303
    assert site.ids("held") == []


BUTTONS = {
    "held": ("Release: process again", "Release as it is", "Drop it"),
    "deferred": ("Try again now",),
}  # fmt: skip


@pytest.mark.parametrize("who", ["logged out", "another operator"])
def test_no_button_works_for_the_wrong_user(page: Page, site: Site, who: str) -> None:
    """On a page that is open still: its session ended elsewhere, or somebody else has logged in meanwhile."""
    site.put("hold")
    site.put("defer")
    site.drain()
    states = {state: (site.directory / "state" / state).iterdir() for state in BUTTONS}
    paths = {state: f"{site.url}/queue/{state}/{next(names).name}" for state, names in states.items()}
    before = {path: path.read_bytes() for path in (site.directory / "state").rglob("status.json")}
    assert len(before) == 2
    for state, buttons in BUTTONS.items():
        for button in (*buttons, "Log out"):
            log_in(page, site)
            page.goto(paths[state] + ("/confirm" if button == "Drop it" else ""))
            other = page.context.new_page()
            other.goto(site.url)
            other.get_by_role("button", name="Log out").click()
            if who == "another operator":
                log_in(other, site, "bob")
            page.get_by_role("button", name=button).click()
            if who == "logged out":
                expect(page).to_have_url(f"{site.url}/login")
            else:
                expect(page.get_by_role("alert")).to_contain_text("This form was not made for this session")
                expect(other.locator("header")).to_contain_text("bob")
                page.context.clear_cookies()
            other.close()
    assert {path: path.read_bytes() for path in (site.directory / "state").rglob("status.json")} == before
    assert "web.acted" not in site.log()


def test_names_are_checked_before_they_are_paths(page: Page, site: Site) -> None:
    log_in(page, site)
    cookie: Any
    (cookie,) = page.context.cookies()
    session = f"{cookie['name']}={cookie['value']}"
    for path in ("/queue/nowhere", "/queue/held/..%2f..%2fledger", "/queue/../held/x", "/queue/held/1aaaaa-00000000000-0000.1",
                 "/queue/held/%2e%2e/text", "/static/../app.py", "/static/..%2fapp.py", "/queue/status/x"):  # fmt: skip
        assert site.request("GET", path, Cookie=session)[0] in {404, 405}, path
    assert site.request("GET", "/queue/held?page=99999999999", Cookie=session)[0] == 200


def test_guessing_is_slowed_down(site: Site) -> None:
    answers = [
        site.request("POST", "/login", {"name": "anna", "password": f"guess {number}"}, Origin=site.url)[0]
        for number in range(7)
    ]
    assert answers == [403] * 5 + [429] * 2
    # Nor does the right one get in then.
    assert site.request("POST", "/login", {"name": "anna", "password": PASSWORD}, Origin=site.url)[0] == 429
    assert "guess" not in site.log()


@pytest.mark.parametrize("way", ["unix", "tls"])
def test_log_in_by_dovecot(page: Page, tmp_path: Path, way: str) -> None:
    dovecot = Dovecot({"anna@example.test": PASSWORD, "bob@example.test": "bob's own"})
    dovecot.start()
    web = 'operators = ["anna@example.test"]\n' + (
        f'dovecot_socket = "{dovecot.socket}"'
        if way == "unix"
        else f'dovecot_socket = "127.0.0.1 {dovecot.tls_port}"\ndovecot_tls = true\ndovecot_ca_file = "{dovecot.certificate}"'
    )
    site = Site(tmp_path, web)
    try:
        site.start()
        log_in(page, site, "bob@example.test", "bob's own")
        expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")  # right, but no operator
        log_in(page, site, "anna@example.test", "bob's own")
        expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
        log_in(page, site, "anna@example.test")
        expect(page.locator("header")).to_contain_text("anna@example.test")
        dovecot.stop()
        page.get_by_role("button", name="Log out").click()
        log_in(page, site, "anna@example.test")
        expect(page.get_by_role("alert")).to_have_text("Nobody can check passwords just now.")
    finally:
        site.stop()
        dovecot.stop()
