"""What server and workers say to each other, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="A SHA-256, in lower-case hexadecimal.")]
Worker = Annotated[
    str,
    Field(
        pattern=r"^[!-~]{1,200}$",
        description="A name of the worker's own: no other process uses it. A worker holds one job at a time.",
    ),
]
Epoch = Annotated[int, Field(ge=0, le=10**9)]
Reason = Annotated[str, Field(max_length=500)]
Detail = Annotated[str, Field(max_length=20_000)]


class _Said(BaseModel):
    """What a worker says: a name that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Ask(_Said):
    """Ask for a job."""

    worker: Worker
    wait: Annotated[float, Field(ge=0, le=60, description="Seconds to wait for one.")] = 20.0


class State(BaseModel):
    """A state to go on from."""

    epoch: int
    sha256: Annotated[str, Field(description="Names it for the download; empty where its worker kept it.")]
    clone: Annotated[bool, Field(description="Another trial's: config and seed of this job hold over its own.")]


class TheJob(BaseModel):
    """Train ``trial`` from epoch ``start + 1`` to ``until`` and report after each epoch."""

    state: Literal["job"] = "job"
    lease: Annotated[str, Field(description="Names the job in all that follows.")]
    trial: int
    config: dict[str, Any]
    seed: int
    start: Annotated[int, Field(description="Epochs that are trained already; 0: from the beginning.")]
    until: int
    horizon: Annotated[int, Field(description="The length that a decaying schedule decays over.")]
    probe: Annotated[str | None, Field(description="A question to answer instead of training.")] = None
    sources: Annotated[list[State], Field(description="To go on from, the best first.")] = []
    lease_seconds: Annotated[float, Field(description="Say something at least this often: report or heartbeat.")]
    largest: Annotated[int, Field(description="Bytes that an uploaded state may have.")]


class Wait(BaseModel):
    """Nothing to hand out now: ask again after ``seconds``."""

    state: Literal["wait"] = "wait"
    seconds: float
    why: str


class Done(BaseModel):
    """The study is over."""

    state: Literal["done"] = "done"
    why: str


Given = Annotated[TheJob | Wait | Done, Field(discriminator="state")]
"""What an ask is answered with."""


class Report(_Said):
    """The metrics after an epoch. The same epoch again is acknowledged and changes nothing."""

    epoch: Annotated[int, Field(ge=1, le=10**9)]
    metrics: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=200)], float | None],
        Field(min_length=1, max_length=1000, description='Numbers by name; null, "nan" or "inf" where it is none.'),
    ]
    seconds: Annotated[float | None, Field(ge=0, description="How long the epoch took.")] = None


class Verdict(BaseModel):
    """Whether to train on. What was said is on the disk."""

    answer: Literal["continue", "stop"]
    keep: Annotated[bool, Field(description="The state is worth keeping: upload it, then end the job.")] = False
    why: str = ""


class End(_Said):
    """The job is over: trained as far as asked, ended by its own early stopping, or its question answered."""

    epoch: Epoch
    sha256: Annotated[Digest | None, Field(description="The state that was uploaded.")] = None
    kept: Annotated[bool, Field(description="The workers keep the state themselves, by trial and epoch.")] = False
    answer: Annotated[dict[str, Any] | None, Field(description="Of a probe.")] = None
    cost: Annotated[float, Field(ge=0, le=1e9, description="Epochs' worth of training that a probe took.")] = 0.0


class GiveBack(_Said):
    """The worker has to leave: the trial goes on elsewhere."""

    epoch: Epoch
    sha256: Annotated[Digest | None, Field(description="The state that was uploaded.")] = None


class Fail(_Said):
    """The training failed; it is recorded and the study goes on."""

    kind: Literal["raised", "oom", "oom-killed", "killed", "hung", "died", "silent", "pipeline"] = "raised"
    reason: Reason
    detail: Detail = ""


class Trouble(_Said):
    """A state could not be saved, or one to go on from is lost; training goes on."""

    what: Literal["unsaved", "lost"]
    why: Reason
    epoch: Epoch = 0
    sha256: Annotated[Digest | None, Field(description="Of a lost one.")] = None


class Stored(BaseModel):
    """An upload arrived whole and is on the disk."""

    epoch: int
    sha256: str
    bytes: int


class Best(BaseModel):
    """The best trial so far."""

    trial: int | None
    score: float | None
    config: dict[str, Any]


class Status(BaseModel):
    """Where the study stands."""

    name: str
    version: Annotated[str, Field(description="The server's version of Luthier.")]
    goal: str
    strategy: str
    max_epochs: int
    study: Annotated[dict[str, Any], Field(description="All that was asked, with the space.")]
    trials: int
    failed: int
    running: list[int]
    epochs: Annotated[float, Field(description="Epochs trained over all trials.")]
    epochs_left: float | None
    seconds: float
    paused: bool
    finished: str | None
    best: Best | None


class Problem(BaseModel):
    """What was wrong, and how to mend it."""

    problem: str
    mend: str
