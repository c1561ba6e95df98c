"""The folder of a run: nothing written over, locked, resumed with the same settings alone, interrupted cleanly."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bptt_relax import processes
from bptt_relax.finetuning import measurement
from bptt_relax.finetuning.batch_size import as_device
from bptt_relax.outcomes import InputError, Interrupted, StorageError, run_program
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


@pytest.fixture
def no_compilers(monkeypatch):
    """`run_program` ends a process in which something is being compiled at once; that of the tests shall go on."""
    monkeypatch.setattr(threading, "enumerate", list)


def test_a_full_disk_ends_a_run_with_a_sentence_and_nothing_half_written(
    here, monkeypatch, capsys, no_compilers
):
    def main():
        with opened(here / "run", {"seed": 0}, (here / "run").exists()) as session:
            session.event({"event": "epoch"})
            session.write_results("trial", None, {}, {})
        return 0

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(here / "run", {"seed": 0}, False):
        pass
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        main()
    with pytest.raises(SystemExit) as ended:
        run_program(main)
    assert ended.value.code == 5
    said = capsys.readouterr().err
    assert said.strip().endswith(
        "No space left on device: nothing more could be written to "
        f"{here / 'run'}. What was written before is kept; make room, then go on with the same command and --resume"
    )
    assert sorted(path.name for path in (here / "run").iterdir()) == ["config.json", "metrics.jsonl"]
    monkeypatch.setattr(os, "fsync", sync)
    assert main() == 0


def test_a_full_disk_outside_of_a_run_is_a_sentence_too(capsys, no_compilers):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.extxyz")

    with pytest.raises(SystemExit) as ended:
        run_program(main)
    assert ended.value.code == 5
    assert "error: No space left on device (out.extxyz): make room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "fix"),
    [
        ("config.json", "[]", "put back the file that the run was started with"),
        ("config.json", "{", "put back the file that the run was started with"),
        ("timing.json", "[1]", "remove it to have it made again"),
        ("timing.json", '{"training": "long"}', "remove it to have it made again"),
        ("timing.json", "\x00", "remove it to have it made again"),
        ("metrics.jsonl", '{"event": "step"}\n?\n{"event": "step"}\n', "remove this line"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_when_it_is_resumed(here, file, content, fix):
    with opened(here / "run", {"seed": 0}, False):
        pass
    (here / "run" / file).write_text(content)
    with (
        pytest.raises(InputError, match=rf"{file}.* is (damaged|not an event).*{fix}"),
        opened(here / "run", {"seed": 0}, True),
    ):
        pass
    assert (here / "run" / file).read_text() == content


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"a": {}}', '{"a": {"relaxed": 1}}', "[" * 100_000])
def test_what_an_interrupted_run_has_measured_must_be_whole(here, content):
    def read(found):
        return {name: measurement.from_json(found)[name] for name in ("a",)}

    with opened(here / "run", {}, False) as session:
        (here / "run" / "pretrained.json").write_text(content)
        with pytest.raises(
            InputError, match=r"pretrained\.json is damaged .*remove it to have it made again"
        ):
            session.once(here / "run" / "pretrained.json", dict, read)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"backend": "cpu", "cores": "two", "devices": 1, "processes": 1}']
)
def test_a_damaged_description_of_the_device(here, content):
    with opened(here / "run", {}, False) as session:
        (here / "run" / "device.json").write_text(content)
        with pytest.raises(InputError, match=r"device\.json is damaged"):
            session.once(here / "run" / "device.json", dict, as_device)
