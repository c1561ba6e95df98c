import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from bptt_relax import processes
from bptt_relax.finetuning import workspace
from bptt_relax.outcomes import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(folder):
    folder.mkdir(parents=True)
    (folder / workspace.CONFIG).write_text("{}")
    return folder


def test_each_run_gets_its_own_folder(here):
    assert str(workspace.choose_folder(None, False, "silicon-quick")) == "runs/silicon-quick"
    a_run(here / "runs" / "silicon-quick")
    assert str(workspace.choose_folder(None, False, "silicon-quick")) == "runs/silicon-quick-2"


def test_resume_takes_the_newest(here):
    a_run(here / "runs" / "silicon-quick")
    a_run(here / "runs" / "silicon-quick-2")
    assert str(workspace.choose_folder(None, True, "silicon-quick")) == "runs/silicon-quick-2"


def test_nothing_is_written_over(here):
    a_run(here / "mine")
    with pytest.raises(InputError, match="not empty.*--resume"):
        workspace.choose_folder(here / "mine", False, "silicon-quick")
    (here / "file").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        workspace.choose_folder(here / "file", False, "silicon-quick")
    assert (here / "file").read_text() == "precious"


@pytest.mark.parametrize("out", [None, "nowhere"])
def test_nothing_to_resume(here, out):
    with pytest.raises(InputError, match="resume"):
        workspace.choose_folder(out and here / out, True, "silicon-quick")


def test_a_lock_keeps_others_out_and_goes_away(here):
    with (
        workspace.locked(here / "run"),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        workspace.locked(here / "run"),
    ):
        pass
    with workspace.locked(here / "run"):
        pass
    assert not (here / "run" / workspace.LOCK).exists()


def test_the_lock_of_a_dead_process_is_taken_over(here):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (here / "run").mkdir()
    lock = here / "run" / workspace.LOCK
    lock.write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname()}))
    with workspace.locked(here / "run"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_lock_on_another_machine_is_respected(here):
    (here / "run").mkdir()
    (here / "run" / workspace.LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(InputError, match="on elsewhere"), workspace.locked(here / "run"):
        pass


def test_a_folder_that_cannot_be_made(here):
    (here / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), workspace.locked(here / "file" / "run"):
        pass


def test_resuming_with_other_settings_shows_what_changed(here):
    workspace.record_config(here, {"model": "a", "bptt": {"epochs": 8, "clip": 1.0}}, resume=False)
    workspace.record_config(here, {"model": "a", "bptt": {"epochs": 8, "clip": 1.0}}, resume=True)
    with pytest.raises(InputError, match=r"bptt\.epochs: 8 -> 9"):
        workspace.record_config(here, {"model": "a", "bptt": {"epochs": 9, "clip": 1.0}}, resume=True)


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
