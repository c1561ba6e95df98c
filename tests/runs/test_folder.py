"""The folder of a run: nothing written over, locked, resumed with the same settings alone, interrupted cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from bptt_relax import processes
from bptt_relax.outcomes import InputError, Interrupted
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import opened


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(folder):
    folder.mkdir(parents=True)
    (folder / folders.CONFIG).write_text("{}")
    return folder


def test_each_run_gets_its_own_folder(here):
    assert str(folders.choose(None, False, "silicon-quick")) == "runs/silicon-quick"
    a_run(here / "runs" / "silicon-quick")
    assert str(folders.choose(None, False, "silicon-quick")) == "runs/silicon-quick-2"


def test_resume_takes_the_newest(here):
    a_run(here / "runs" / "silicon-quick")
    a_run(here / "runs" / "silicon-quick-2")
    assert str(folders.choose(None, True, "silicon-quick")) == "runs/silicon-quick-2"


def test_nothing_is_written_over(here):
    a_run(here / "mine")
    with pytest.raises(InputError, match="not empty.*--resume"):
        folders.choose(here / "mine", False, "silicon-quick")
    (here / "file").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        folders.choose(here / "file", False, "silicon-quick")
    assert (here / "file").read_text() == "precious"


@pytest.mark.parametrize("out", [None, "nowhere"])
def test_nothing_to_resume(here, out):
    with pytest.raises(InputError, match="resume"):
        folders.choose(out and here / out, True, "silicon-quick")


def test_a_lock_keeps_others_out_and_goes_away(here):
    with (
        folders.locked(here / "run"),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        folders.locked(here / "run"),
    ):
        pass
    with folders.locked(here / "run"):
        pass
    assert not (here / "run" / folders.LOCK).exists()


def test_the_lock_of_a_dead_process_is_taken_over(here):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (here / "run").mkdir()
    lock = here / "run" / folders.LOCK
    lock.write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname()}))
    with folders.locked(here / "run"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_lock_on_another_machine_is_respected(here):
    (here / "run").mkdir()
    (here / "run" / folders.LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(InputError, match="on elsewhere"), folders.locked(here / "run"):
        pass


def test_a_folder_that_cannot_be_made(here):
    (here / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), folders.locked(here / "file" / "run"):
        pass


def test_resuming_with_other_settings_shows_what_changed(here):
    folders.record_config(here, {"model": "a", "bptt": {"epochs": 8, "clip": 1.0}}, resume=False)
    folders.record_config(here, {"model": "a", "bptt": {"epochs": 8, "clip": 1.0}}, resume=True)
    with pytest.raises(InputError, match=r"bptt\.epochs: 8 -> 9"):
        folders.record_config(here, {"model": "a", "bptt": {"epochs": 9, "clip": 1.0}}, resume=True)


def test_json_is_complete_or_absent(here):
    path = here / "results.json"
    processes.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        processes.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_signal_becomes_a_flag_and_a_second_one_is_not_caught():
    before = signal.getsignal(signal.SIGTERM)
    with processes.StopSignal().listening() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interruption_says_how_to_go_on_and_keeps_the_times(here):
    def work(session, stop):
        session.timed("training", lambda: stop and signal.raise_signal(signal.SIGTERM))
        session.check_stop("training")

    said = "everything so far is in .*run. Go on .* --resume"
    with (
        pytest.raises(Interrupted, match=said) as stopped,
        opened(here / "run", {"seed": 0}, False) as session,
    ):
        work(session, stop=True)
    assert stopped.value.signal == signal.SIGTERM
    assert not (here / "run" / folders.LOCK).exists()
    before = processes.read_json(here / "run" / "timing.json")["training"]
    assert before > 0
    with opened(here / "run", {"seed": 0}, True) as session:
        work(session, stop=False)
        assert session.timing["training"] > before
        results = session.write_results("trial", "small", {"seed": 0}, {"found": 1})
    assert (results["experiment"], results["found"], set(results["timing_s"])) == ("trial", 1, {"training"})
    assert processes.read_json(here / "run" / folders.RESULTS) == results


def test_what_is_there_is_not_made_again(here):
    with opened(here / "run", {}, False) as session:
        made = [session.once(here / "run" / "deep" / "one.json", lambda k=k: {"number": k}) for k in (1, 2)]
    assert made == [{"number": 1}] * 2
