"""The web around the counter: addresses under /v1, JSON in and out, and checkpoints as plain bytes."""

from __future__ import annotations

import asyncio
import errno
import math
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from luthier import __version__
from luthier.contracts import Job
from luthier.core import events as ev
from luthier.core.errors import LuthierError, StorageError, UserError
from luthier.core.history import History
from luthier.core.summary import summarize
from luthier.core.trial import TrialRecord
from luthier.serve import states, wire
from luthier.serve.counter import Answer, Closing, Counter, Gone, Later, Mistaken, Over, Visit
from luthier.web.guard import JSON, Guard, Manners

BYTES = "application/octet-stream"
MOST = 1_000_000
"""Bytes of a message."""
SOON = 2.0
"""Seconds after which who did not want to wait shall ask again."""
UPLOAD = re.compile(r"/v1/jobs/[^/]+/checkpoints/[^/]+")
WATCH = 1.0
"""Seconds between two looks at whether somebody who waits is still there."""

Lease = Annotated[str, InPath(max_length=100)]
Digest = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": wire.Problem, "description": text}
    for code, text in {
        401: "the token is missing or wrong",
        409: "it cannot be, or the study cannot go on",
        410: "the lease is over: ask for a job anew",
        422: "the message is malformed",
        503: "the server is being stopped, or its disk is full: try again",
    }.items()
}


class _Refused(Exception):
    def __init__(self, status: int, problem: str, mend: str = "") -> None:
        self.status, self.problem, self.mend = status, problem, mend


def make_app(
    counter: Counter, files: Path, *, lease: float, token: str | None, local: bool = True, hosts: tuple[str, ...] = (),
    largest: int = states.LARGEST,
) -> Guard:  # fmt: skip
    """The application, an ASGI app.

    Args:
        counter: where the driver is met.
        files: the study's folder of files.
        lease: seconds for which a lease lasts without a word.
        token: what whoever comes must show; None for nobody.
        local: only this machine reaches it.
        hosts: further host names that it answers to.
        largest: bytes that an uploaded checkpoint may have.
    """
    app = FastAPI(
        title="Luthier: ask and report",
        summary="Ask for a job, train it anywhere, report each epoch.",
        version=__version__,
        docs_url=None,  # their pages would fetch scripts from elsewhere
        redoc_url=None,
        responses=_PROBLEMS,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call their functions
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The server's token."))],
    )
    _errors(app)

    async def said(visit: Visit) -> Any:
        return await asyncio.wrap_future(counter.visit(visit))

    @app.get("/v1/study", summary="Where the study stands")
    async def study() -> wire.Status:
        return wire.Status(**await said(counter.reads(_status)))

    @app.post("/v1/jobs", summary="Ask for a job")
    async def ask(asked: wire.Ask, request: Request) -> wire.Given:
        answer: Future[Any] = Future()
        counter.visit(counter.asks(asked.worker, asked.wait, answer), answer)
        waiting = asyncio.wrap_future(answer)
        while not (await asyncio.wait({waiting}, timeout=WATCH))[0]:
            if await request.is_disconnected():
                waiting.cancel()  # nobody is there to take a job
        if waiting.cancelled():
            return wire.Wait(seconds=SOON, why="this worker has asked anew")
        match waiting.result():
            case Later(why):
                return wire.Wait(seconds=0.0 if asked.wait >= SOON else SOON, why=why)
            case Over(why):
                return wire.Done(why=why)
            case (str(given), Job() as job):
                return _job(given, job, lease_seconds=lease, largest=largest)
        raise AssertionError("no other answer is known")

    @app.post("/v1/jobs/{lease}/reports", summary="Report an epoch's metrics")
    async def report(lease: Lease, told: wire.Report) -> wire.Verdict:
        metrics = {k: math.nan if v is None else v for k, v in told.metrics.items()}
        return _verdict(await said(counter.reports(lease, told.epoch, metrics, told.seconds)))

    @app.post("/v1/jobs/{lease}/heartbeat", summary="Say that a long epoch is still being trained")
    async def heartbeat(lease: Lease) -> wire.Verdict:
        return _verdict(await said(counter.beats(lease)))

    async def uploaded(lease: str, epoch: int, digest: str | None) -> str | None:
        """The name of a state that the end of a job speaks of."""
        if digest is None:
            return None
        try:
            trial, _ = await said(counter.looks(lease))
        except Gone:  # it ended by a decision, and needs no state; or this is said once more
            return None
        if not await asyncio.to_thread(states.stored, files, trial.id, epoch, digest):
            raise _Refused(409, f"No state of epoch {epoch} with this SHA-256 was uploaded.", "Upload it first.")
        return states.name_of(trial.id, epoch)

    @app.post("/v1/jobs/{lease}/end", summary="End the job: it was trained as far as asked", status_code=204)
    async def end(lease: Lease, told: wire.End) -> None:
        name = await uploaded(lease, told.epoch, told.sha256)
        if name is None and told.kept and told.epoch:
            name = f"epoch-{told.epoch}"

        def ended(trial: TrialRecord) -> ev.Event:
            complete = trial.probe is not None or told.epoch < trial.until
            answer = None if told.answer is None else ev.plain(told.answer)
            return ev.Ended(trial.id, told.epoch, complete, name, answer, told.cost, told.sha256 or "")

        await said(counter.ends(lease, ended))

    @app.post("/v1/jobs/{lease}/give-back", summary="Leave: the trial goes on elsewhere", status_code=204)
    async def give_back(lease: Lease, told: wire.GiveBack) -> None:
        name = await uploaded(lease, told.epoch, told.sha256)

        def left(trial: TrialRecord) -> ev.Event:
            return ev.Interrupted(trial.id, told.epoch, name, told.sha256 or "")

        await said(counter.ends(lease, left))

    @app.post("/v1/jobs/{lease}/fail", summary="The training failed", status_code=204)
    async def fail(lease: Lease, told: wire.Fail) -> None:
        await said(counter.ends(lease, lambda trial: ev.Failed(trial.id, told.kind, told.reason, told.detail)))

    @app.post("/v1/jobs/{lease}/trouble", summary="A state could not be saved or is lost", status_code=204)
    async def trouble(lease: Lease, told: wire.Trouble) -> None:
        _, job = await said(counter.looks(lease))
        lost = next((path for path, digest, _ in states.sources_of(job) if digest and digest == told.sha256), None)
        if told.what == "unsaved":
            await said(counter.tells(lease, lambda trial: ev.Unsaved(trial.id, told.epoch, told.why)))
        elif lost is not None:
            await said(counter.tells(lease, lambda trial: ev.CheckpointLost(trial.id, lost, told.why)))

    @app.put(
        "/v1/jobs/{lease}/checkpoints/{sha256}",
        summary="Upload a state",
        openapi_extra={"requestBody": {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def upload(lease: Lease, sha256: Digest, epoch: wire.Epoch, request: Request) -> wire.Stored:
        chunks = request.stream()
        try:
            trial, _ = await said(counter.looks(lease))
            place = files / states.name_of(trial.id, epoch)
            size = await states.store(chunks, place, sha256, largest, lease[:16], lambda: said(counter.looks(lease)))
        except states.Unlike as error:
            raise _Refused(422, f"The state is not what was announced: {error}.", "Send it again.") from None
        except ClientDisconnect:
            raise _Refused(400, "The upload broke off.", "Send it again.") from None
        except Exception:
            async for _ in chunks:  # who is still sending does not hear the answer
                pass
            raise
        return wire.Stored(epoch=epoch, sha256=sha256, bytes=size)

    @app.get(
        "/v1/jobs/{lease}/checkpoints/{sha256}",
        summary="Download a state to go on from",
        response_class=FileResponse,
        responses={200: {"content": {BYTES: {}}}, 404: {"model": wire.Problem}},
    )
    async def download(lease: Lease, sha256: Digest) -> Response:
        _, job = await said(counter.looks(lease))
        name = next((path for path, digest, _ in states.sources_of(job) if digest == sha256), None)
        place = None if name is None else states.inside(files, name)
        if place is None:
            raise _Refused(404, "There is no such state for this job.", "Begin without it, and say so: trouble, lost.")
        return FileResponse(place, media_type=BYTES)

    def body(method: str, path: str) -> tuple[str, int]:
        return (BYTES, largest) if method == "PUT" and UPLOAD.fullmatch(path) else (JSON, MOST)

    return Guard(app, Manners("server", cookie=None, body=body), token=token, local=local, hosts=hosts)


def _errors(app: FastAPI) -> None:
    def on(kind: type[Exception], answer: Callable[[Any], tuple[int, str, str]]) -> None:
        async def handle(_request: Request, error: Exception) -> Response:
            status, problem, mend = answer(error)
            return JSONResponse({"problem": problem, "mend": mend}, status_code=status)

        app.add_exception_handler(kind, handle)

    on(_Refused, lambda e: (e.status, e.problem, e.mend))
    on(Gone, lambda e: (410, str(e), "Ask for a job anew."))
    on(Mistaken, lambda e: (409, str(e), "Report each epoch once, up to the job's last."))
    on(Closing, lambda e: (503, str(e), "Try again in a moment."))
    on(StorageError, lambda e: (503, e.problem, e.mend))
    on(UserError, lambda e: (409, e.problem, e.mend))
    on(LuthierError, lambda e: (409, str(e), "See what the server printed."))
    on(OSError, lambda e: (507 if e.errno in _FULL else 500, f"It cannot be stored: {e.strerror}.", "Make room there."))
    on(RequestValidationError, lambda e: (422, _malformed(e), "/openapi.json tells what is understood."))
    on(HTTPException, lambda e: (e.status_code, f"{e.detail}.", "/openapi.json lists the addresses."))


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _malformed(error: RequestValidationError) -> str:
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"] if part != "body")[:200]
    return f"{place}: {found['msg']}." if place else f"{found['msg']}."


def _verdict(answer: Answer) -> wire.Verdict:
    return wire.Verdict(answer="continue" if answer.go_on else "stop", keep=answer.keep, why=answer.why)


def _job(given: str, job: Job, **server: Any) -> wire.TheJob:
    sources = [
        wire.State(epoch=states.epoch_of(path), sha256=digest, clone=cloned)
        for path, digest, cloned in states.sources_of(job)
    ]
    return wire.TheJob(
        lease=given,
        trial=job.trial,
        config=dict(job.config),
        seed=job.seed,
        start=job.start,
        until=job.until,
        horizon=job.horizon,
        probe=job.probe,
        sources=sources,
        **server,
    )


def _status(history: History) -> dict[str, Any]:
    found, study = summarize(history), history.study
    asked = replace(study, target=None).to_dict()  # that is a path of the server's machine
    best = None
    if found.best_config is not None:
        best = {"trial": found.best_trial, "score": found.best_score, "config": dict(found.best_config)}
    told = {
        "name": study.name,
        "version": __version__,
        "goal": str(study.goals),
        "strategy": study.strategy,
        "max_epochs": study.max_epochs,
        "study": asked,
        "trials": history.n_trained,
        "failed": found.failed,
        "running": list(history.running),
        "epochs": history.spent,
        "epochs_left": history.epochs_left if math.isfinite(history.epochs_left) else None,
        "seconds": history.elapsed,
        "paused": history.paused,
        "finished": history.finished,
        "best": best,
    }
    return {k: ev.plain(v) for k, v in told.items()}
