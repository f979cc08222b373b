"""The pages: what is asked for, by whom, and what may be done.

No page has a script, and none loads anything from elsewhere. What changes something is
a POST from a form of the same session and the same origin.

Diagnostics: make_app() raises ConfigError; a request always gets an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...errors import ConflictError, PermanentError, RespoolError, TemporaryError
from ...requeue import hold
from ...requeue.state import STATES, StateDirectory
from .. import log
from ..cli.kept import opened_ledger
from ..cli.status import duration, seconds
from ..cli.terminal import escape
from ..config import Config
from ..overview import look, short_name
from . import charts, messages
from .headers import SecurityHeaders
from .passwords import Limits, make_authenticator
from .sessions import Session, Sessions

_DONE: Final = frozenset({"released", "released as is", "dropped", "due now"})
_LARGEST_FORM: Final = 16 * 1024

Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """A request that is not answered with a page; status is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class Pages:
    """All handlers, over one state directory."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._web = config.web
        self._authenticator = make_authenticator(config.web)
        self._limits = Limits()
        self._sessions = Sessions(config.web.session_minutes * 60)
        self._cookie = "__Host-respool" if config.web.secure_cookie else "respool"
        self._state = StateDirectory(config.state_directory)
        self._log = log.get()
        self._dropping = threading.Lock()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__ or "", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            duration=duration, seconds=seconds, shown=escape, short=short_name, moment=_moment
        )

    def close(self) -> None:
        """Close the state directory."""
        self._state.close()

    # Logging in and out.

    async def login_form(self, request: Request) -> Response:
        """The form, or home for whoever is logged in."""
        if self._session(request) is not None:
            return _to("/")
        return self._page("login.html", None, reason="", name="")

    async def login(self, request: Request) -> Response:
        """Check name and password."""
        form = await _form(request)
        name, password = form.get("name", ""), form.get("password", "")
        remote = request.client.host if request.client is not None else ""
        if not self._limits.begin(name, remote):
            self._log.warning("web.login_limited", remote=remote)
            return self._page("login.html", None, 429, reason="Too many tries: wait five minutes.", name=name)
        try:
            operator = await run_in_threadpool(self._authenticator.check, name, password, remote=remote)
        except TemporaryError as error:
            self._limits.succeeded(name, remote)
            self._log.error("web.login_unavailable", error=error)
            return self._page("login.html", None, 503, reason="Nobody can check passwords just now.", name=name)
        if operator is None:
            self._log.warning("web.login_refused", remote=remote)
            return self._page("login.html", None, 403, reason="Name or password is wrong.", name=name)
        self._limits.succeeded(name, remote)
        token = self._sessions.begin(operator)
        self._log.info("web.logged_in", user=operator.name, remote=remote)
        response = _to("/")
        response.set_cookie(
            self._cookie, token, httponly=True, samesite="strict", secure=self._web.secure_cookie, path="/"
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await self._checked_form(request)
        self._sessions.end(request.cookies.get(self._cookie, ""))
        response = _to("/login")
        response.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict", secure=self._web.secure_cookie)
        return response

    # Looking.

    async def home(self, request: Request) -> Response:
        """Queues, throughput, processors, workers, errors."""
        session = self._need(request)
        overview = await run_in_threadpool(look, self._config)
        return self._page("home.html", session, overview=overview, bars=charts.minutes(overview.minutes))

    async def queue(self, request: Request) -> Response:
        """The messages of one state, a page of them."""
        session = self._need(request)
        place = request.path_params["place"]
        if place not in STATES:
            raise _Refused(404, "There is no such queue.")
        number = request.query_params.get("page", "1")
        page = max(1, int(number)) if number.isascii() and number.isdigit() and len(number) < 7 else 1
        rows, pages = await run_in_threadpool(messages.list_page, self._state, place, page)
        done = request.query_params.get("done", "")
        return self._page(
            "queue.html", session, place=place, rows=rows, page=page, pages=pages, done=done if done in _DONE else ""
        )

    async def message(self, request: Request) -> Response:
        """One message and its journey."""
        session = self._need(request)
        place, name = request.path_params["place"], request.path_params["name"]
        found = await run_in_threadpool(messages.detail, self._config, self._state, place, name)
        return self._page("message.html", session, found=found, place=place, name=name)

    async def text(self, request: Request) -> Response:
        """The message as plain text, for the frame on its page."""
        self._need(request)
        place, name = request.path_params["place"], request.path_params["name"]
        as_source = "source" in request.query_params
        content = await run_in_threadpool(messages.text, self._state, place, name, as_source=as_source)
        # Plain text, and in a sandbox: there is no markup for a message to use.
        return PlainTextResponse(content)

    async def find(self, request: Request) -> Response:
        """Where a message is, or what is remembered of it."""
        session = self._need(request)
        wanted = request.query_params.get("id", "").strip()[:64]
        places, remembered = await run_in_threadpool(messages.find, self._config, self._state, wanted)
        if len(places) == 1 and not [one for one in remembered if one.claim != places[0][1].number]:
            return _to(f"/queue/{places[0][0]}/{places[0][1].name}")
        journeys = [(one, messages.ended_journey(self._config, one)) for one in remembered]
        return self._page("find.html", session, wanted=wanted, places=places, journeys=journeys)

    # Acting.

    async def act(self, request: Request) -> Response:
        """Release, drop or retry a message."""
        session = await self._checked_form(request)
        place, name, action = (request.path_params[key] for key in ("place", "name", "action"))
        try:
            done = await run_in_threadpool(self._act, place, name, action)
        except ConflictError:
            raise _Refused(409, "The sidecar has this message in hand at this moment: try again.") from None
        self._log.info("web.acted", action=action, id=name, user=session.operator.name)
        return _to(f"/queue/{place}?done={done}")

    async def confirm(self, request: Request) -> Response:
        """Ask before a message is dropped for good."""
        session = self._need(request)
        name = request.path_params["name"]
        found = await run_in_threadpool(messages.detail, self._config, self._state, "held", name)
        return self._page("confirm.html", session, found=found, name=name)

    def _act(self, place: str, name: str, action: str) -> str:
        match place, action:
            case "held", "release":
                hold.release(self._state, hold.find(self._state, "held", name))
                return "released"
            case "held", "release-as-is":
                hold.release(self._state, hold.find(self._state, "held", name), as_is=True)
                return "released as is"
            case "held", "drop":
                self._drop(name)
                return "dropped"
            case "deferred", "retry":
                hold.retry(self._state, hold.find(self._state, "deferred", name))
                return "due now"
            case _:
                raise _Refused(404, "There is no such action.")

    def _drop(self, name: str) -> None:
        # LMDB files are opened once at a time in a process.
        with self._dropping, opened_ledger(self._config, self._state) as ledger:
            hold.drop(self._state, hold.find(self._state, "held", name), ledger)

    # What all of them need.

    def guarded(self, handler: Handler) -> Handler:
        """The handler, with everything that can go wrong turned into a page."""

        async def answer(request: Request) -> Response:
            session: Session | None = None
            try:
                session = self._session(request)
                return await handler(request)
            except _Refused as refused:
                if refused.status == 401:
                    return _to("/login")
                return self._page("refused.html", session, refused.status, reason=refused.reason)
            except PermanentError as error:
                return self._page("refused.html", session, 404, reason=error.reason)
            except (RespoolError, OSError) as error:
                self._log.error("web.failed", path=request.url.path, error=error)
                return self._page("refused.html", session, 503, reason="That did not work: the log says why.")

        return answer

    def _session(self, request: Request) -> Session | None:
        token = request.cookies.get(self._cookie, "")
        session = self._sessions.find(token) if token else None
        if session is not None and not self._authenticator.still_knows(session.operator):
            self._log.info("web.logged_out", user=session.operator.name)
            self._sessions.end(token)
            return None
        return session

    def _need(self, request: Request) -> Session:
        session = self._session(request)
        if session is None:
            raise _Refused(401, "Log in first.")
        return session

    async def _checked_form(self, request: Request) -> Session:
        session = self._need(request)
        form = await _form(request)
        if not session.owns(form.get("token", "")):
            raise _Refused(403, "This form was not made for this session: go back and load the page again.")
        return session

    def _page(self, template: str, session: Session | None, status: int = 200, **values: Any) -> Response:
        content = self._templates.get_template(template).render(
            session=session, hostname=self._config.hostname, now=time.time(), **values
        )
        return HTMLResponse(content, status)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, sent by a page of ours."""
    # A browser names the origin of every POST: that of another site is a forgery.
    host = request.headers.get("host", "")
    if not host or _host_of(request.headers.get("origin", "")) != host:
        raise _Refused(403, "This request came from another site.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise _Refused(415, "This is not the form of a page.")
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > _LARGEST_FORM:
            raise _Refused(413, "This is more than a form of ours holds.")
    try:
        return dict(parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise _Refused(400, "This form can't be read.") from None


def _host_of(origin: str) -> str:
    """Host and port of an origin; nothing where that is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)


def _moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)) if when else ""


def make_app(config: Config) -> Starlette:
    """The application. Raises ConfigError."""
    pages = Pages(config)

    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, pages.guarded(handler), methods=[method])

    return Starlette(
        routes=[
            route("/", pages.home),
            route("/login", pages.login_form),
            route("/login", pages.login, "POST"),
            route("/logout", pages.logout, "POST"),
            route("/find", pages.find),
            route("/queue/{place}", pages.queue),
            route("/queue/{place}/{name}", pages.message),
            route("/queue/{place}/{name}/text", pages.text),
            route("/queue/held/{name}/confirm", pages.confirm),
            route("/queue/{place}/{name}/{action}", pages.act, "POST"),
            Mount("/static", StaticFiles(packages=[(__package__ or "", "static")])),
        ],
        middleware=[Middleware(SecurityHeaders)],
    )
