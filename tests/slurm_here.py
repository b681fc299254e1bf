"""A Slurm of this machine's own: controller, daemon and munge, on loopback, in a folder that goes afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel")

CONF = """
ClusterName=luthier
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_min_interval=100000,bf_interval=1
KillWait=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing() -> str:
    """Why there can be no Slurm here; empty where there can."""
    if absent := [name for name in NEEDED if not shutil.which(name)]:
        return f"no {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """The configuration file of a cluster of one node, which is this machine.

    Raises:
        RuntimeError: it does not come up.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    conf = folder / "slurm.conf"
    ports = {"controller": _port(), "daemon": _port()}
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=folder, cores=os.cpu_count(), **ports))
    here = {**os.environ, "SLURM_CONF": str(conf)}
    files = {
        "key-file": "key",
        "socket": "munge.sock",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
        "seed-file": "seed",
    }
    munged = ["munged", "--force", *(f"--{option}={folder / name}" for option, name in files.items())]
    try:
        for command in (munged, ["slurmctld", "-f", str(conf)], ["slurmd", "-f", str(conf)]):
            done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=30)
            if done.returncode != 0:
                raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-300:]}")
        _until_idle(here)
        yield conf
        subprocess.run(["scancel", "--user=root"], env=here, capture_output=True, timeout=30)
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            _end(folder / f"{name}.pid")


def _until_idle(here: dict[str, str]) -> None:
    deadline = time.monotonic() + 15
    told = ""
    while "idle" not in told:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the node is {told.strip() or 'not there'}")
        time.sleep(0.1)
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=here, capture_output=True, text=True, timeout=30).stdout


def _end(pid_file: Path) -> None:
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
