"""An executor on Ray: workers are actors, and where and when each finds its resources is Ray's to say.

An actor trains job after job. Each has one call of ``hear`` out: it answers with what the actor said since, and is put
again at once, so that a report waits for nobody and comes together with what was said meanwhile. When an actor, its
node or its process dies, that call fails. Stops and parks come in a thread of their own. When the driver dies, Ray ends
the actors.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.errors import RunError, UserError
from luthier.core.events import Event
from luthier.run.limits import Limits
from luthier.run.search_path import package, search_path
from luthier.run.seat import STARTS, Seat, log_of_worker, pickle
from luthier.run.team import employ
from luthier.run.trainer import Station, told

TOGETHER = 500
"""Messages that are answered at once."""

OWN = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Ray's names of resources that are options of an actor; all others are resources of the cluster's own."""


QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
"""Options of ``ray.init``: the terminal is the study's; what workers print goes to its log files."""


class Actor:
    """What runs in the cluster: whoever trains, and what it said."""

    def __init__(self, station: Station, pickled: bytes) -> None:
        self._said: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._trainer = employ(station, pickled, self._said.put)

    def hear(self) -> list[Mapping[str, Any]]:
        """Waits for the first message, and answers with all that there are."""
        messages = [self._said.get()]
        while len(messages) < TOGETHER and not self._said.empty():
            messages.append(self._said.get())
        return messages

    def train(self, ticket: int, job: Mapping[str, Any]) -> None:
        """Do a job; what becomes of it is heard."""
        try:
            self._trainer.train(ticket, job)
        except BaseException:  # nobody asks for this call's result; the death of the actor is noticed
            traceback.print_exc()
            os._exit(1)

    def stop(self, ticket: int) -> None:
        """The job with that ticket leaves at its next epoch."""
        self._trainer.stop(ticket)

    def park(self, ticket: int) -> None:
        """It saves its state after its epoch, and leaves."""
        self._trainer.park(ticket)


@dataclass(slots=True)
class _Placed:
    """A seat, the actor that sits there, and the call that hears it."""

    seat: Seat
    actor: Any
    said: Any


class RayPool:
    """Workers in a Ray cluster.

    Args:
        target: the training function or recipe; it travels by cloudpickle.
        workers: how many actors there are at most; each waits until Ray finds room for it.
        files: the study's folder of files.
        url: where checkpoints go instead; empty for ``files``, which all nodes must then share.
        address: the cluster's; where it is empty what ``RAY_ADDRESS`` says, else a Ray of this machine that ends with
            the study. A connection that the program has already is used as it is.
        resources: what each actor needs, by Ray's names; one CPU for each process where nothing is said.
        threads: processor threads of each process; its share of the CPUs where None.
        processes: how many processes train each trial, all of them below its actor.
        limits: when a worker is taken to hang.
        driver: its number, where a study has several; names the workers' logs.

    Raises:
        UserError: Ray is missing, there is no such cluster, this machine has no such resources, or the target cannot
            be pickled.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        workers: int,
        files: Path,
        url: str = "",
        *,
        address: str = "",
        resources: Mapping[str, float] | None = None,
        threads: int | None = None,
        processes: int = 1,
        limits: Limits | None = None,
        driver: int = 0,
    ) -> None:
        pickled = pickle(target)
        self._ray, self._ours = _connect(address)
        timeout = (limits or Limits()).timeout
        self._timeout = timeout if processes == 1 else None
        self._files = files.resolve()
        self._early_deaths = 0
        wanted = {"CPU": float(processes), **(resources or {})}
        if processes > 1 and threads is None:  # Ray's own is all CPUs, for each of them
            threads = max(1, int(wanted["CPU"]) // processes)
        try:
            _find_room(self._ray, wanted, fixed=self._ours)
        except UserError:
            self._leave()
            raise
        options: dict[str, Any] = {OWN[name]: wanted.pop(name) for name in list(wanted) if name in OWN}
        if threads is not None:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            options["runtime_env"] = {"env_vars": dict.fromkeys(names, str(threads))}
        hear, tell = (self._ray.method(concurrency_group=group) for group in ("hear", "tell"))
        heard = type("Actor", (Actor,), {"hear": hear(Actor.hear), "stop": tell(Actor.stop), "park": tell(Actor.park)})
        self._class = self._ray.remote(
            concurrency_groups={"hear": 1, "tell": 1}, max_restarts=0, resources=wanted, **options
        )(heard)
        self._station = Station(0, tuple(search_path()), str(self._files), url, processes, timeout, driver)
        self._target = self._ray.put(pickled)
        self._placed = [self._place(Seat(n, log_of_worker(self._files, n, driver))) for n in range(workers)]

    def _place(self, seat: Seat) -> _Placed:
        actor = self._class.remote(replace(self._station, number=seat.number), self._target)
        return _Placed(seat, actor, actor.hear.remote())

    @property
    def free(self) -> int:
        """Actors that are there and have no job: one that Ray finds no room for takes none."""
        return sum(p.seat.ready and p.seat.job is None for p in self._placed)

    def submit(self, job: Job) -> None:
        """Give the job to a free actor."""
        placed = next(p for p in self._placed if p.seat.ready and p.seat.job is None)
        placed.actor.train.remote(placed.seat.take(job), told(job))

    def poll(self, hear: Callable[..., None], timeout: float) -> None:
        """Hand on what the actors said, waiting up to ``timeout`` seconds for the first word."""
        calls = {p.said: p for p in self._placed}
        answered, _ = self._ray.wait(list(calls), num_returns=1, timeout=timeout)
        if answered:
            answered, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        events: list[Event] = []
        try:
            for call in answered:
                events += self._visit(calls[call])
            for placed in self._placed:
                if placed.seat.silent(self._timeout):
                    events += self._replace(placed, "hung", f"no report for {self._timeout:g} s (timeout)")
        finally:
            if events:
                hear(*events)

    def _visit(self, placed: _Placed) -> list[Event]:
        """What an actor said; its end, where its call failed."""
        try:
            messages = self._ray.get(placed.said)
        except self._ray.exceptions.RayError as error:
            return self._bury(placed, error)
        placed.said = placed.actor.hear.remote()
        events = [placed.seat.understand(message) for message in messages]
        return [event for event in events if event is not None]

    def _bury(self, placed: _Placed, error: Exception) -> list[Event]:
        whole = " ".join(str(error).split())
        if not placed.seat.ready:
            self._early_deaths += 1
            if self._early_deaths >= STARTS:
                raise RunError(f"Workers die before they are ready: {whole}\n{placed.seat.tail()}".rstrip())
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return self._replace(placed, "oom-killed", "Ray killed its worker, for its node ran out of memory", whole)
        if getattr(error, "preempted", False):
            return self._replace(placed, "", "its node was taken away")
        _, _, end = whole.partition("The actor is dead because ")
        return self._replace(placed, "killed", f"Ray lost its worker: {(end or whole).split('. ')[0][:200]}", whole)

    def _replace(self, placed: _Placed, kind: str, reason: str, told: str = "") -> list[Event]:
        """Another actor for one that is gone, or is to go."""
        self._ray.kill(placed.actor)
        lost = placed.seat.vacate(kind, reason, told)
        self._placed[self._placed.index(placed)] = self._place(placed.seat)
        return [] if lost is None else [lost]

    def stop(self, trial: int) -> None:
        """Tell the actor that trains ``trial``; it leaves at its next epoch."""
        for placed in self._placed:
            if placed.seat.job is not None and placed.seat.job.trial == trial:
                placed.actor.stop.remote(placed.seat.ticket)

    def park(self) -> None:
        """Tell every actor with a job to save it and leave it after its epoch."""
        for placed in self._placed:
            if placed.seat.job is not None:
                placed.actor.park.remote(placed.seat.ticket)

    def close(self) -> None:
        """End every actor, and the Ray that was started for them."""
        for placed in self._placed:
            self._ray.kill(placed.actor)
        self._placed = []
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()


def own_ray(**options: Any) -> Any:
    """A Ray of this machine's own, started now; ``ray.shutdown()`` ends it, and so does the end of this process.

    Args:
        options: of ``ray.init``.
    """
    # Without this, which is read as Ray is imported, its processes would listen to the network.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    path = {"env_vars": {"PYTHONPATH": package()}}
    ray.init("local", include_dashboard=False, runtime_env=path, **{**QUIET, **options})
    return ray


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, connected; and whether the connection is ours to end."""
    if not find_spec("ray"):
        raise UserError("executor='ray' needs Ray.", "pip install 'luthier[ray]'")
    address = address or os.environ.get("RAY_ADDRESS", "")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"], False
    if address.startswith("ray://"):
        raise UserError(
            f"{address!r} is Ray Client, through which Luthier does not train.",
            "Start the study on a node of the cluster, or with ray job submit.",
        )
    if address in ("", "local"):
        return own_ray(), True
    import ray

    try:
        ray.init(address, **QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"There is no Ray cluster at {address!r}: {' '.join(str(error).split())[:300]}",
            "Start one (ray start --head), or write executor='ray' without RAY_ADDRESS for one of this machine's own.",
        ) from None
    return ray, True


def _find_room(ray: Any, wanted: Mapping[str, float], *, fixed: bool) -> None:
    """Whether some node can hold one worker; a cluster may still grow one, a ``fixed`` one cannot."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
    asked = ", ".join(f"{name}={amount:g}" for name, amount in wanted.items())
    there = ", ".join(f"{name}={amount:g}" for name, amount in most.items())
    if fixed:
        raise UserError(f"This machine cannot hold one worker with {asked}: it has {there}.", "Ask for less.")
    warnings.warn(f"No node can hold a worker with {asked}; the largest have {there}. It waits for one.", stacklevel=2)
