"""Who is who among several processes, and what is refused."""

import os
import socket
import threading

import pytest

from bptt_relax import distributed
from bptt_relax.distributed import joining, watch
from bptt_relax.finetuning.batch_size import choose_batch
from bptt_relax.finetuning.settings import BpttSettings
from bptt_relax.outcomes import InputError, Interrupted


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node003,other", "node003"),
        ("n[003-007,12],x", "n003"),
        ("gpu-a[9,11]", "gpu-a9"),
    ],
)
def test_srun_says_who_is_who(nodes, first):
    said = {"SLURM_STEP_NODELIST": nodes, "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_ID": "70001"}
    assert joining.slurm_place(said) == (f"{first}:{61440 + 70001 % 4096}", 4, 3)


def test_a_shell_in_an_allocation_is_no_process_of_several(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with distributed.joined() as alone:
        assert (alone.count, alone.index) == (1, 0)
    with (
        pytest.raises(InputError, match="SLURM_STEP_NODELIST, SLURM_PROCID not set"),
        distributed.joined(auto=True),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "a:1"}, "--distributed.num-processes, --distributed.process-id is missing"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "a is not host:port"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process-id 2 is not one of 0 to 1"),
    ],
)
def test_what_is_incomplete_is_refused(given, message):
    with pytest.raises(InputError, match=message), distributed.joined(**given):
        pass


def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_who_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(watch, "ARRIVAL", 0.5)
    where = address()
    with pytest.raises(InputError, match="of 3 processes number 1, 2 did not come"):
        watch.Watch(where, 3, 0, lambda: None)
    with pytest.raises(InputError, match="process 1 of 3 finds no first process at 127.0.0.1"):
        watch.Watch(address(), 3, 1, lambda: None)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="can't listen"):
            watch.Watch(where, 2, 0, lambda: None)


def test_a_silent_process_and_one_that_gives_up_are_told_to_all(monkeypatch):
    """Three in one process: the second falls silent, the third leaves with an error."""
    monkeypatch.setattr(watch, "PATIENCE", 3.0)
    monkeypatch.setattr(watch, "EVERY", 0.1)
    ended: list[tuple[int, str]] = []
    told = threading.Event()

    def end(self, what):
        ended.append((self._index, what))
        told.set()

    monkeypatch.setattr(watch.Watch, "_end", end)
    monkeypatch.setattr(watch.Watch, "_send_signs", lambda self: None)
    where, made = address(), {}

    def make(index):
        made[index] = watch.Watch(where, 3, index, lambda: None)

    threads = [threading.Thread(target=make, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    made[2].give_up(InputError("no data\nhere"))
    expected = {
        (0, "process 2 of 3 ended: no data here"),
        (0, f"process 1 of 3 is gone: it was silent for 3 s. {watch.ADVICE}"),
    }
    while not expected <= set(ended):
        assert told.wait(20), ended
        told.clear()
    for each in made.values():
        each.close()


def test_alone_everything_is_ones_own():
    alone = distributed.processes()
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.gather((1, 2)) == [(1, 2)]
    assert alone.each(lambda: 3) == [3]

    def stopped():
        raise Interrupted("here", 10)

    with pytest.raises(Interrupted, match="here") as raised:
        alone.each(stopped)
    assert raised.value.signal == 10


def test_batches_grow_with_processes():
    cores = {"backend": "cpu", "cores": 2, "devices": 1, "processes": 3}
    cards = {"backend": "cuda", "cores": 8, "devices": 4, "processes": 2}
    assert choose_batch(BpttSettings(), 100, cores).size == 6
    assert choose_batch(BpttSettings(), 1000, cards).size == 256
    assert "2 processes with 4 x cuda each" in choose_batch(BpttSettings(), 1000, cards).sentence
