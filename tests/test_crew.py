"""Who trains, as the user writes it: what is read, and what is refused."""

from __future__ import annotations

import pytest

import luthier as lt
from luthier.core.errors import UserError
from luthier.run.crew import Crew, amounts, options


def test_options_are_read_from_a_line_of_the_terminal():
    assert amounts("resources", "CPU=2, GPU=0.5,tpu=1") == {"CPU": 2, "GPU": 0.5, "tpu": 1}
    assert options("slurm", "partition=gpu,time=60,gres=gpu:a100:1") == {
        "partition": "gpu",
        "time": 60,
        "gres": "gpu:a100:1",
    }
    assert Crew(executor="ray:10.0.0.1:6379").address == "10.0.0.1:6379"
    assert Crew(executor="ray").address == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"executor": "slrum"}, "executor='slrum' is unknown. Did you mean 'slurm'"),
        ({"executor": "ray", "workers": 0}, "workers=0 trains in this process, not on ray"),
        ({"resources": {"CPU": 2}}, "is for executor='ray', this one is 'local'"),
        ({"executor": "ray", "slurm": {"time": 1}}, "is for executor='slurm', this one is 'ray'"),
        ({"executor": "ray", "resources": "CPU"}, "'CPU' is no NAME=VALUE. Write them as in CPU=2,GPU=1"),
        ({"executor": "ray", "resources": {"CPU": "two"}}, "CPU is 'two', which is no amount"),
        ({"executor": "ray", "resources": {"GPU": -1}}, "GPU is -1, which is no amount"),
        ({"executor": "slurm", "slurm": "partition"}, "Write them as in partition=gpu,time=60"),
        ({"executor": "ray", "worker_memory": "8 GB"}, "ray sees to the memory of its own"),
        ({"executor": "ray://head:10001"}, "is Ray Client, through which Luthier does not train"),
        ({"executor": "slurm"}, "needs a folder that all nodes share"),
        ({"workers": 0, "timeout": 1}, "workers=0 trains in this process, which timeout= cannot end. Use workers=1"),
        ({"workers": 0, "worker_memory": "8 GB"}, "workers=0 trains in this process, which worker_memory= cannot end"),
        ({"files": "here"}, "files='here' is for a study that is kept, and this one is not. Write storage="),
    ],
)
def test_what_makes_no_sense_is_said(given, said):
    with pytest.raises(UserError, match=said):
        lt.tune(lambda trial: None, {"x": lt.Float(0, 1)}, minimize="loss", quiet=True, **given)
