"""What a machine's workers get of it: facts in, slots out; and real workers that say what they got."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from test_workers import SPACE, tune

import luthier as lt
from luthier.core.errors import UserError
from luthier.core.trial import Status
from luthier.run.crew import Crew
from luthier.run.gpus import CUDA, Device, Gpus, choose, read_amd, read_nvidia, visible, wanted
from luthier.run.machine import below, core_ids, cores, peak, quota, room
from luthier.run.slots import CONTEXT, Facts, Measured, auto, environment, fixed, less

GB = 10**9
FOUR = Gpus(tuple(Device(str(n), 80 * GB) for n in range(4)))

# -- how many ----------------------------------------------------------------------------------------------------------


def eight(**more):
    return Facts(**{"cores": tuple(range(8)), "grant": 8, "memory": 100 * GB, **more})


@pytest.mark.parametrize(
    ("facts", "measured", "options", "workers", "threads"),
    [
        (eight(), Measured(), {}, 1, 1),  # until the first has shown what it takes
        (eight(), Measured(memory=GB), {}, 8, 1),
        (eight(), Measured(memory=20 * GB), {}, 4, 2),
        (eight(), Measured(memory=400 * GB), {}, 1, 8),
        (eight(memory=None), Measured(), {}, 8, 1),
        (eight(grant=2), Measured(memory=GB), {}, 2, 1),  # a container's share of a larger machine
        (eight(cores=tuple(range(64)), grant=64), Measured(memory=GB), {}, 8, 8),
        (eight(cores=tuple(range(64)), grant=64), Measured(memory=GB), {"threads": 1}, 64, 1),
        (eight(), Measured(memory=GB), {"threads": 3}, 2, 3),
        (eight(), Measured(memory=GB), {"processes": 2}, 4, 1),
        (eight(), Measured(memory=GB, at_most=3), {}, 3, 2),
        (eight(gpus=FOUR), Measured(), {}, 4, 2),
        (eight(gpus=FOUR), Measured(memory=GB), {"processes": 2}, 2, 2),
        (eight(gpus=FOUR), Measured(memory=GB, device=30 * GB), {}, 8, 1),
        (eight(gpus=FOUR), Measured(memory=GB, device=20 * GB), {}, 8, 1),  # three a GPU, but for the cores
        (eight(cores=tuple(range(64)), grant=64, gpus=FOUR), Measured(memory=GB, device=20 * GB), {}, 12, 5),
        (eight(gpus=FOUR), Measured(memory=GB, device=30 * GB, a_device=1), {}, 4, 2),
        (eight(gpus=FOUR), Measured(memory=GB, device=70 * GB), {}, 4, 2),
        (eight(gpus=FOUR), Measured(memory=40 * GB, device=GB), {}, 2, 4),
        (eight(gpus=Gpus((Device("MIG-1"), Device("MIG-2")))), Measured(memory=GB, device=GB), {}, 2, 4),
    ],
)
def test_as_many_workers_as_the_machine_bears(facts, measured, options, workers, threads):
    plan = auto(facts, measured, **options)
    assert len(plan.slots) == workers
    assert {slot.threads for slot in plan.slots} == {threads}
    assert plan.why.startswith(f"Workers: {workers} ")


def test_why_so_many_is_said_in_a_line():
    assert auto(eight(), Measured()).why == (
        "Workers: 1 with 1 thread each until an epoch has shown the memory that it takes (8 cores allow 8)."
    )
    assert auto(eight(), Measured(memory=20 * GB)).why == (
        "Workers: 4 with 2 threads each (8 cores allow 8; memory (20.0 GB a worker of 100.0 GB) allows 4)."
    )
    assert auto(eight(gpus=FOUR), Measured(device=30 * GB)).why == (
        "Workers: 8 with 1 thread each on GPU 0, 1, 2, 3, up to 2 on one (8 cores allow 8; 4 GPUs allow 8)."
    )
    assert fixed(eight(), 2, pin=True).why == "Workers: 2 with 4 threads each pinned, as asked."


def test_what_ran_out_of_memory_is_not_tried_again():
    facts = eight(gpus=FOUR)
    seen = Measured(memory=GB, device=30 * GB)
    assert len(auto(facts, less(seen, 8, 2, device=True)).slots) == 4
    assert len(auto(facts, less(seen, 8, 2, device=False)).slots) == 7
    assert less(Measured(), 1, 1, device=False).at_most == 1


# -- who gets what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "processes", "dealt"),
    [
        (1, 1, ["0,1,2,3"]),
        (2, 1, ["0,1", "2,3"]),
        (4, 1, ["0", "1", "2", "3"]),
        (3, 1, ["0", "1", "2"]),
        (6, 1, ["0", "1", "2", "3", "0", "1"]),
        (2, 2, ["0,1", "2,3"]),
        (1, 3, ["0,1,2,3"]),
    ],
)
def test_gpus_are_dealt_evenly(workers, processes, dealt):
    slots = fixed(eight(gpus=FOUR), workers, processes=processes).slots
    assert [environment(slot, {})[CUDA] for slot in slots] == dealt
    assert [slot.sharing for slot in slots] == [dealt.count(own) for own in dealt]


def test_a_process_has_a_gpu_at_least():
    with pytest.raises(UserError, match="2 workers of 3 processes need 6 GPUs, and there are 4"):
        fixed(eight(gpus=FOUR), 2, processes=3)
    with pytest.raises(UserError, match="1 worker of 5 processes needs 5 GPUs, and there are 4"):
        auto(eight(gpus=FOUR), Measured(), processes=5)


def test_pinned_workers_share_all_cores_evenly():
    slots = fixed(eight(cores=tuple(range(1, 8)), grant=7), 2, threads=1, pin=True).slots
    assert [sorted(slot.cores) for slot in slots] == [[1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(UserError, match="9 workers cannot have a core each of 8"):
        fixed(eight(), 9, pin=True)


def test_what_the_user_set_stays():
    (slot,) = fixed(eight(), 1, threads=3).slots
    assert environment(slot, {"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"
    assert environment(slot, {})["OMP_NUM_THREADS"] == "3"
    assert CUDA not in environment(slot, {})
    (slot,) = fixed(eight(gpus=FOUR), 1).slots
    assert environment(slot, {})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # as nvidia-smi counts
    assert "CUDA_DEVICE_ORDER" not in environment(slot, {CUDA: "0,1,2,3"})


# -- which GPUs there are ----------------------------------------------------------------------------------------------

SMI = """0, GPU-8932f937-d72c, 81559
1, GPU-1b5d2f31-aa10, 81559
2, GPU-77777777-0000, 40960
"""
LISTED = read_nvidia(SMI)
MIB = 2**20


@pytest.mark.parametrize(
    ("inherited", "seen"),
    [
        (None, [("0", 81559), ("1", 81559), ("2", 40960)]),
        ("2,0", [("2", 40960), ("0", 40960)]),  # CUDA may count in another order: the smallest
        ("GPU-1b5d2f31", [("GPU-1b5d2f31", 81559)]),
        ("MIG-3e1d, MIG-4f2e", [("MIG-3e1d", None), ("MIG-4f2e", None)]),
        ("0,-1,1", [("0", 40960)]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_users_own_environment_is_all_that_there_is(inherited, seen):
    found = visible(inherited, LISTED)
    assert [(d.id, d.total and d.total // MIB) for d in found] == seen


def test_nothing_is_read_from_what_says_nothing():
    assert read_nvidia("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []
    amd = "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\ncard0,17163091968,1000\ncard1,17163091968,0\n\n"
    assert [(one.index, one.total) for one in read_amd(amd)] == [("0", 17163091968), ("1", 17163091968)]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("auto", ["4", "7", "GPU-a"]),
        (2, ["4", "7"]),
        ("2", ["4", "7"]),
        ([2, 0], ["GPU-a", "4"]),  # places among those that it sees
        ("0,GPU-a", ["4", "GPU-a"]),
        (["GPU-a"], ["GPU-a"]),
    ],
)
def test_gpus_are_chosen_among_those_that_are_seen(asked, chosen):
    assert [d.id for d in choose(asked, [Device("4"), Device("7"), Device("GPU-a")])] == chosen


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (4, "3 GPUs were found"),
        ([3], "there is no GPU '3' among 4, 7, GPU-a"),
        ("GPU-b", "there is no GPU 'GPU-b'"),
        (0, "gpus=0 is no number of GPUs"),
        ([], "names no GPUs"),
        ("1,1", "names no GPUs"),
        ("0,", "names no GPUs"),
        (True, "names no GPUs"),
        (1.5, "names no GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_refused(asked, problem):
    with pytest.raises(UserError, match=problem):
        choose(asked, [Device("4"), Device("7"), Device("GPU-a")])


def test_where_nothing_tells_of_gpus_the_user_may_name_them():
    assert [d.id for d in choose([0, "MIG-1"], [])] == ["0", "MIG-1"]
    for asked in ("auto", 1):
        with pytest.raises(UserError, match="no GPUs were found"):
            choose(asked, [])
    assert wanted("auto") is None


# -- what the operating system says ------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_limits_of_control_groups_are_those_above_too(tmp_path):
    write(tmp_path / "a", cpu__max="150000 100000\n", memory__max="8000\n", memory__current="3000\n",
          memory__stat="anon 1\ninactive_file 1000\n")  # fmt: skip
    write(tmp_path / "a" / "b", cpu__max="max 100000\n", memory__max="max\n", memory__current="10\n", memory__stat="")
    assert quota(tmp_path, "0::/a/b\n") == 1.5
    assert room(tmp_path, "0::/a/b\n") == 6000
    assert quota(tmp_path, "0::/\n") is None
    write(tmp_path / "cpu" / "c", cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    write(tmp_path / "memory" / "m", memory__limit_in_bytes="5000\n", memory__usage_in_bytes="4000\n",
          memory__stat="total_inactive_file 500\n")  # fmt: skip
    old = "9:memory:/m\n3:cpuacct,cpu:/c\n2:cpu:/c\n1:name=systemd:/\n"
    assert quota(tmp_path, old) == 2.0
    assert room(tmp_path, old) == 1500
    assert quota(tmp_path, "2:cpu:/none\n") is None


def test_this_machine_has_processors_and_memory():
    assert 1 <= cores() <= len(core_ids())
    assert room() > 0
    assert peak(os.getpid()) > 10**6
    assert os.getpid() in below(os.getppid())


# -- real workers ------------------------------------------------------------------------------------------------------


def seen(tmp_path, **options):
    """What the workers of a study see, by worker."""

    def who(trial):
        (tmp_path / f"{os.getpid()}-{trial.rank}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        deadline = time.monotonic() + 30  # until every worker has had a trial
        want = options["workers"] * options.get("processes", 1)
        while len(list(tmp_path.iterdir())) < want and time.monotonic() < deadline:
            time.sleep(0.01)
        trial.report(val_loss=1.0)

    result = tune(who, max_epochs=1, budget=f"{options['workers']} trials", **options)
    assert all(t.status is Status.DONE for t in result.trials())
    return sorted(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inherited", "options", "told"),
    [
        ("4,GPU-12ab,MIG-77", {"workers": 3, "gpus": "auto"}, ["4", "GPU-12ab", "MIG-77"]),
        ("4,5,6,7", {"workers": 2, "gpus": 2}, ["4", "5"]),
        ("4,5", {"workers": 3, "gpus": "auto"}, ["4", "4", "5"]),
        ("4,5,6,7", {"workers": 2, "gpus": [3, 2]}, ["6", "7"]),
        ("4,5,6,7", {"workers": 1, "processes": 2, "gpus": 2}, ["4,5", "4,5"]),
        ("4,5", {"workers": 2}, ["4,5", "4,5"]),
    ],
)
def test_each_worker_sees_its_own_gpus(tmp_path, monkeypatch, inherited, options, told):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert seen(tmp_path, **options) == told


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(core_ids()) < 2, reason="nothing to pin to")
def test_pinned_workers_and_their_children_stay_on_their_cores(tmp_path):
    def where(trial):
        import subprocess
        import sys

        ask = "import os; print(sorted(os.sched_getaffinity(0)))"
        told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout
        (tmp_path / f"{os.getpid()}").write_text(told)
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        trial.report(val_loss=1.0)

    tune(where, max_epochs=1, budget="2 trials", workers=2, pin=True)
    one, other = (set(eval(path.read_text())) for path in tmp_path.iterdir())
    assert one | other == set(core_ids())
    assert not one & other


def test_workers_grow_in_number_once_the_first_epoch_has_shown_their_memory(tmp_path, capsys):
    def train(trial):
        for epoch in trial.epochs():
            (tmp_path / f"{os.getpid()}").touch()
            deadline = time.monotonic() + 30
            while epoch == 2 and len(list(tmp_path.iterdir())) < min(8, cores()) and time.monotonic() < deadline:
                time.sleep(0.01)
            trial.report(val_loss=1.0)

    lt.tune(train, SPACE, minimize="val_loss", max_epochs=2, strategy="random", budget=f"{cores() + 1} trials",
            workers="auto")  # fmt: skip
    assert len(list(tmp_path.iterdir())) == min(8, cores())
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Workers: ")]
    assert first.startswith("Workers: 1 with ")
    assert "until an epoch has shown the memory" in first
    assert second.startswith(f"Workers: {min(8, cores())} with ")
    assert " MB a worker of " in second


@pytest.mark.skipif(cores() < 2, reason="one worker only")
def test_a_trial_that_shared_the_memory_it_ran_out_of_is_tried_again_beside_fewer(tmp_path, capsys):
    def hungry(trial):
        mark = tmp_path / "ran-out"
        for epoch in trial.epochs():
            deadline = time.monotonic() + 30
            while epoch == 2 and trial.id == 0 and not (tmp_path / "1").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            (tmp_path / str(trial.id)).touch()
            if trial.id == 1 and not mark.exists():
                mark.touch()
                raise MemoryError("too much")
            trial.report(val_loss=1.0)

    result = lt.tune(hungry, SPACE, minimize="val_loss", max_epochs=2, strategy="random", budget="4 trials",
                     workers="auto", threads=max(1, cores() // 2))  # fmt: skip
    assert [t.status for t in result.trials()] == [Status.DONE] * 4
    assert [t.attempts for t in result.trials()] == [1, 2, 1, 1]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Workers: ")]
    assert "memory, which ran out, allows" in told[-1]


def test_crews_are_read():
    assert Crew("3") == Crew(3)
    assert Crew("auto").workers == "auto"
    for wrong, problem in (
        ({"workers": "many"}, "workers='many' is no number"),
        ({"workers": -1}, "workers"),
        ({"workers": "auto", "pin": True}, "pin=True wants a number"),
        ({"workers": 0, "gpus": 1}, "workers=0 trains in this process"),
        ({"gpus": "0,0"}, "names no GPUs"),
    ):
        with pytest.raises(UserError, match=problem):
            Crew(**wrong)


def test_what_a_gpu_takes_beside_its_tensors_is_counted():
    facts = eight(gpus=Gpus((Device("0", 10 * GB),)))
    held = int(0.9 * 10 * GB / 2) - CONTEXT
    assert len(auto(facts, Measured(memory=1, device=held - 1)).slots) == 2
    assert len(auto(facts, Measured(memory=1, device=held + 10)).slots) == 1
