"""A worker process: started once per study, imports the training function once, then trains job after job.

``python -m luthier.run.worker FD``: ``FD`` is a socket to the driver. Messages are JSON, save the target itself,
which comes by cloudpickle from the driver that started this process. When the driver is gone the socket closes and
the worker leaves at once, so that no orphan goes on training; the guard above it (``guard.py``) sees to the rest.

Where several processes train each trial this one is rank 0 and starts the others (``leader.py``).
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import threading
import traceback
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from luthier.contracts import Job
from luthier.core.events import Event, encode
from luthier.run.interrupts import ignore_notices, pass_on
from luthier.run.leader import Leader
from luthier.run.perform import TAIL, perform
from luthier.run.vault import vault_of

MARK = "--- trial {trial}, epochs {start} to {until} ---"
"""Begins each job's part of a worker's log."""


def _listen(link: Connection, jobs: queue.SimpleQueue[Job], stopped: set[int], parked: threading.Event) -> None:
    """The listening thread: jobs into the queue, stops into the set, and out when the driver is gone."""
    while True:
        try:
            message = json.loads(link.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        if message["do"] == "train":
            stopped.discard(message["job"]["trial"])
            jobs.put(Job(**message["job"]))
        elif message["do"] == "stop":
            stopped.add(message["trial"])
        elif message["do"] == "park":
            parked.set()


def broken(error: BaseException) -> dict[str, str]:
    """What a worker says that could not load the training function; to be called while that is handled."""
    trace = traceback.format_exc()[-TAIL:]
    return {
        "say": "broken",
        "why": f"A worker could not load the training function: {type(error).__name__}: {error}\n{trace}",
    }


def device_memory() -> int:
    """The most that PyTorch has held of one GPU in this process, in bytes; 0 where it uses none."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return 0
    return max((int(cuda.max_memory_reserved(device)) for device in range(cuda.device_count())), default=0)


def main(descriptor: int) -> None:
    """Serve jobs until the driver closes the connection."""
    ignore_notices()
    link = Connection(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # who looks at the log of a running trial sees its last line
    hello = json.loads(link.recv_bytes())
    sys.path[:] = hello["path"]
    files = Path(hello["files"])
    vault = vault_of(files, hello["url"])
    if hello["cores"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, hello["cores"])

    speaking = threading.Lock()  # where several processes train a trial, a thread may say how that ended

    def tell(message: dict[str, Any]) -> None:
        with speaking:
            link.send_bytes(json.dumps(message).encode())

    def send(event: Event) -> None:
        held = device_memory()
        if held > told[0]:
            told[0] = held
            tell({"say": "device", "held": held})
        if leader is not None and leader.spent:
            tell({"say": "spent"})
        kind, data = encode(event)
        tell({"say": kind, "data": data})

    told = [0]
    leader: Leader | None = None
    stopped: set[int] = set()
    parked = threading.Event()
    pickled = link.recv_bytes()
    if hello["processes"] > 1:
        leader = Leader(hello["processes"], hello, pickled, send, stopped.__contains__, parked.is_set)
    try:
        import cloudpickle

        target = cloudpickle.loads(pickled)
    except BaseException as error:
        tell(broken(error))
        return
    del pickled
    tell({"say": "ready", "pid": os.getpid()})

    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, jobs, stopped, parked), daemon=True).start()
    # Slurm sends SIGTERM to every process of a job: the driver is asked too, and ends this one in order.
    me = os.getpid()
    signal.signal(signal.SIGTERM, lambda number, frame: None if pass_on(me, number) else parked.set())

    while True:
        job = jobs.get()
        stop = partial(stopped.__contains__, job.trial)
        print(MARK.format(trial=job.trial, start=job.start + 1, until=job.until), flush=True)
        if leader is not None:
            leader.begin(job)
        say = send if leader is None else leader.say
        perform(target, job, send=say, stopped=stop, files=files, parked=parked.is_set, vault=vault, ranks=leader)
        parked.clear()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (BrokenPipeError, ConnectionResetError):  # the driver left while we spoke
        os._exit(0)
