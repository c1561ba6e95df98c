"""Weights that are not what they should be: refused by name, nothing run, nothing written over."""

import pickle
import zipfile

import pytest

from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.potentials import pretrained

CACHED = "chgnet-0.3.0"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BPTT_RELAX_CACHE", str(tmp_path / "cache"))


def archive(path, payload: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3\n")
    return path


class Dangerous:
    """Unpickled carelessly this would run a command."""

    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pointer.pth.tar", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "(?i)lfs"),
        ("page.pth.tar", b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        ("short.safetensors", b"\x10\x00\x00", "short.safetensors"),
    ],
)
def test_what_is_no_weights_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((ModelError, InputError), match=message):
        pretrained.load(path)
    assert path.read_bytes() == content
    assert not (tmp_path / "cache").exists()


def test_a_foreign_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "model.pth.tar", pickle.dumps({"model": Dangerous()}))
    with pytest.raises(ModelError, match=r"model\.pth\.tar"):
        pretrained.load(path)
    with pytest.raises((ModelError, InputError)):
        pretrained.load(CACHED, source=path)
    assert not (tmp_path / "pwned").exists()


def test_the_restricted_reader_names_what_it_refuses(tmp_path):
    from bptt_relax.potentials import checkpoint_zip

    path = archive(tmp_path / "model.pth.tar", pickle.dumps({"model": Dangerous()}))
    with pytest.raises(ModelError, match=r"posix\.system|os\.system"):
        checkpoint_zip.read(path.read_bytes(), str(path))


def test_unknown_names_and_missing_files_are_input_errors():
    with pytest.raises(InputError, match=r"no model and no file called chgnet-9; models: .*chgnet-0\.3\.0"):
        pretrained.load("chgnet-9")
