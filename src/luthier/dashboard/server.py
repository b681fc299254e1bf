"""The web around the desks: pages, JSON, a stream of changes, and the socket it is served on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from luthier import insight
from luthier.core.errors import UserError, nearest
from luthier.core.events import plain
from luthier.core.history import History
from luthier.dashboard import actions, feed
from luthier.dashboard.desk import Desk
from luthier.dashboard.page_of_trial import compared_page, trial_page
from luthier.knowledge import HEADINGS
from luthier.playbook.checklist import checklist
from luthier.plots import TAUGHT
from luthier.view import figures
from luthier.web.guard import JSON, Guard, Manners
from luthier.web.listen import address, checked, is_loopback, listen, new_token

PORT = 8484
PACE = 0.25
"""Seconds between two looks at a log that somebody watches."""
BEAT = 15.0
"""Seconds after which a silent stream shows that it lives."""
STATIC = Path(__file__).parent / "static"
MANNERS = Manners("dashboard", cookie="luthier_dashboard", body=lambda method, path: (JSON, 64_000))
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return _text(content).encode()


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=plain)


def make_app(
    desks: Sequence[Desk], *, token: str | None = None, local: bool = True, hosts: Sequence[str] = (),
    read_only: bool = False,
) -> Guard:  # fmt: skip
    """The application, an ASGI app.

    Args:
        desks: the studies, in the order in which they are shown.
        token: what whoever comes must show; None for nobody.
        local: only this machine reaches it.
        hosts: further host names that it answers to.
        read_only: refuse all actions.
    """

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        yield
        for desk in desks:
            desk.close()

    app = FastAPI(title="Luthier", docs_url=None, redoc_url=None, openapi_url=None, lifespan=living)

    @app.exception_handler(UserError)
    async def wrong(_request: Request, error: UserError) -> Response:
        return _Json({"problem": error.problem, "mend": error.mend}, status_code=400)

    def desk_of(study: int) -> Desk:
        if not 0 <= study < len(desks):
            raise UserError(f"There is no study {study}.", f"This dashboard shows {len(desks)}.")
        return desks[study]

    def kept(study: int, key: Any, make: Callable[[History], Any]) -> Response:
        desk = desk_of(study)
        desk.look()
        # What is kept is the text: to write a large answer takes as long as to find it.
        return Response(desk.keep(key, lambda h: _text(make(h)).encode()), media_type="application/json")

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(_page(), headers={"Cache-Control": "no-store"})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name == "plotly.js":
            return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
        if name not in _assets():  # a list of what there is: a name never becomes a path
            return _Json({"problem": f"There is no {name!r}.", "mend": nearest(name, _assets())}, status_code=404)
        return Response(_assets()[name], media_type=KINDS[Path(name).suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/api/studies")
    def studies() -> Response:
        return _Json([_listed(i, d) for i, d in enumerate(desks)])

    @app.get("/api/studies/{study}")
    def state(study: int) -> Response:
        desk = desk_of(study)
        history = desk.look()
        extra = {"id": study, "read_only": read_only, "problem": desk.problem, "place": desk.place}
        return _Json({**feed.whole(history, desk.said), **extra})

    @app.get("/api/studies/{study}/curves")
    def curves(study: int, pair: int = 0) -> Response:
        return kept(study, ("curves", pair), partial(feed.curves, pair=pair))

    @app.get("/api/studies/{study}/figures/{name}")
    def figure(study: int, name: str) -> Response:
        if name not in figures.FIGURES:
            raise UserError(f"There is no figure {name!r}.", nearest(name, figures.FIGURES))
        desk = desk_of(study)

        def drawn(history: History) -> Any:
            lesson = desk.keep("lesson", insight.lesson) if name in TAUGHT else None
            texts = desk.keep("texts", figures.hover_texts)
            specs = figures.FIGURES[name](history, lesson)
            shown = {i for spec in specs for t in spec["data"] for i in t.get("customdata") or () if i is not None}
            more = {"rests_on": lesson.rests_on} if lesson is not None else {}
            return {
                "specs": specs,
                "texts": {i: texts.get(i, "") for i in sorted(shown)},
                "seq": history.length,
                **more,
            }

        return kept(study, ("figure", name), drawn)

    @app.get("/api/studies/{study}/lesson")
    def lesson(study: int) -> Response:
        return kept(study, "next", lambda h: {"next_steps": insight.next_steps(h)})

    @app.get("/api/studies/{study}/checklist")
    def listed(study: int, lang: Literal["en", "zh"] = "en") -> Response:
        def rows(history: History) -> Any:
            keys = ("tier", "title", "name", "seed_range", "default", "advice", "state", "why", "value")
            found = [{k: getattr(r, k) for k in keys} for r in checklist(history, lang)]
            return {"rows": plain(found), "headings": {str(k): v for k, v in HEADINGS[lang].items()}}

        return kept(study, ("checklist", lang), rows)

    @app.get("/api/studies/{study}/trials/{trial}")
    def one(study: int, trial: int) -> Response:
        desk = desk_of(study)
        return _Json(plain(trial_page(desk.look(), trial, desk.files)))

    @app.get("/api/studies/{study}/compare/{first}/{second}")
    def two(study: int, first: int, second: int) -> Response:
        return _Json(plain(compared_page(desk_of(study).look(), first, second)))

    @app.post("/api/studies/{study}/ask")
    async def ask(study: int, request: Request) -> Response:
        if read_only:
            raise UserError("This dashboard only shows.", "Start it without --read-only.")
        try:
            wish = json.loads(await request.body())
        except ValueError:
            wish = None
        if not isinstance(wish, dict):
            raise UserError("The action is no JSON object.", 'Write {"do": "pause"}.')
        return _Json({"said": await asyncio.to_thread(actions.ask, desk_of(study), wish)})

    @app.get("/api/studies/{study}/changes")
    async def changes(study: int, request: Request, since: int = 0) -> Response:
        last = request.headers.get("last-event-id", "")
        begin = int(last) if last.isdigit() else since
        stream = _changes(desk_of(study), begin)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return Guard(app, MANNERS, token=token, local=local, hosts=hosts)


async def _changes(desk: Desk, since: int) -> AsyncIterator[str]:
    """Server-sent events: what changed since event number ``since``, as it happens."""
    seen, problem, quiet = since, desk.problem, 0.0
    yield "retry: 1000\n\n"
    while True:
        history = await asyncio.to_thread(desk.look)
        if desk.problem != problem:
            problem = desk.problem
            yield f"event: problem\ndata: {_text({'problem': problem})}\n\n"
        if history.length != seen:
            before = desk.at(seen)
            if before is None:  # so long ago that it is forgotten: the browser asks for everything
                yield f"event: reset\nid: {history.length}\ndata: {{}}\n\n"
            else:
                data = await asyncio.to_thread(feed.changed, before, history, desk.said)
                yield f"id: {history.length}\ndata: {_text(data)}\n\n"
            seen, quiet = history.length, 0.0
        elif quiet >= BEAT:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(PACE)
        quiet += PACE


def _listed(number: int, desk: Desk) -> Any:
    history = desk.look()
    head = feed.head(history)
    keys = ("seq", "verdict", "tone", "spent", "elapsed", "finished", "paused", "running", "best_score", "last_at")
    return {
        "id": number,
        "place": desk.place,
        "problem": desk.problem,
        "trials": len(history.trials),
        **{k: head[k] for k in keys},
        "study": {k: v for k, v in feed.asked(history).items() if k != "space"},
        "stages": [{k: s[k] for k in ("name", "zh", "state", "part")} for s in feed.stages(history)],
    }


@cache
def _assets() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in STATIC.iterdir() if p.suffix in KINDS}


@cache
def _page() -> str:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    for name in ("texts", "said"):
        table = json.loads(_assets()[f"{name}.json"])
        words = json.dumps(table, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        page = page.replace(f"/*{name}*/", words)
    return page


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).encode()


# -- serving -----------------------------------------------------------------------------------------------------------


def serve(
    desks: Sequence[Desk], say: Callable[[str], None], *, host: str = "127.0.0.1", port: int = PORT,
    token: str | None = None, hosts: Sequence[str] = (), read_only: bool = False,
) -> None:  # fmt: skip
    """Serve until interrupted.

    Args:
        desks: the studies.
        say: is told the address, once it answers.
        host: the address to bind; anything but loopback asks for a token, and makes one where none is given.
        port: 0 for any free one.
        token: asked of everybody, on loopback too.
        hosts: further host names that it answers to.
        read_only: refuse all actions.

    Raises:
        UserError: the address cannot be used.
    """
    local = is_loopback(host)
    if token is not None:
        checked(token)
    elif not local:
        token = new_token()
    link = listen(host, port)
    _page(), _plotly()
    for desk in desks:  # what every visitor asks for first
        desk.keep(("curves", 0), lambda h: _text(feed.curves(h, 0)).encode())
    app = make_app(desks, token=token, local=local, hosts=hosts, read_only=read_only)
    # A stream never ends by itself: who stops the server shall not wait for those who watch.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    server = uvicorn.Server(config)
    say(f"{address(link, host)}/" + (f"?token={token}" if token else ""))
    with link:
        server.run(sockets=[link])
