"""Weights that are not what they should be: refused by name, nothing run, nothing written over."""

import http.server
import json
import pickle
import threading
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from bptt_relax.models import pretrained
from bptt_relax.models.exporting import export
from bptt_relax.models.nequix import weights as nequix_weights
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights import cache, checkpoint_zip, registry, sources, weights_file

SHARED = Path(__file__).parents[3] / "shared" / "weights"
CHGNET, NEQUIX, BUNDLED = "chgnet-0.3.0", "nequix-mp-1", "adapt-silicon"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BPTT_RELAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nequix_file():
    path = SHARED / f"{NEQUIX}.nqx"
    if not path.exists():
        pytest.skip("the published nequix files are not on this machine")
    return path


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


# Files that the user names: input at fault.

IMPOSTORS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
    "page": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "nothing": (b"", "is empty"),
    "pickle": (pickle.dumps({"weights": [1.0]}), "bare pickle, which can run code"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
@pytest.mark.parametrize("suffix", [".pth.tar", ".nqx", ".safetensors"])
def test_what_is_no_weights_is_named(tmp_path, empty_cache, kind, suffix):
    content, message = IMPOSTORS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"model\{suffix} {message}|model\{suffix} is a {message}"):
        pretrained.load(path)
    for name in (CHGNET, NEQUIX):
        with pytest.raises(InputError, match=rf"model\{suffix}"):
            pretrained.load(name, source=path)
    assert path.read_bytes() == content
    assert not empty_cache.exists()


def test_a_cut_off_safetensors_file_is_named(tmp_path):
    path = tmp_path / "tuned.safetensors"
    weights_file.write(path, weights_file.Weights(CHGNET, {}, {"w": np.ones(100)}))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        InputError, match=r"tuned\.safetensors is not a whole safetensors file .*fetch it again"
    ):
        pretrained.load(path)


def test_a_header_of_any_length_can_be_read(tmp_path):
    """Headers are padded to multiples of 8; 0x80 is also how pickles begin, 0x20 and 0x08 are white space."""
    seen = set()
    for length in range(0, 256, 8):
        path = tmp_path / f"tuned{length}.safetensors"
        weights = weights_file.Weights(CHGNET, {"note": "x" * length}, {"w": np.arange(3, dtype=np.float32)})
        weights_file.write(path, weights)
        seen.add(path.read_bytes()[0])
        found = weights_file.read(path)
        assert found.arguments == weights.arguments
        np.testing.assert_array_equal(found.arrays["w"], weights.arrays["w"])
    assert seen == set(range(0, 256, 8))


def test_weights_of_a_model_that_is_not_known(tmp_path):
    path = tmp_path / "tuned.safetensors"
    weights_file.write(path, weights_file.Weights("chgnet-9", {}, {"w": np.ones(1)}))
    with pytest.raises(InputError, match=r"tuned\.safetensors belongs to the model 'chgnet-9'"):
        pretrained.load(path)


def test_a_foreign_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "model.pth.tar", pickle.dumps({"model": Dangerous()}))
    with pytest.raises(InputError, match=r"model\.pth\.tar .* none of the published files"):
        pretrained.load(path)
    with pytest.raises(InputError, match=r"model\.pth\.tar"):
        pretrained.load(CHGNET, source=path)
    assert not (tmp_path / "pwned").exists()


def test_the_restricted_reader_names_what_it_refuses(tmp_path):
    path = archive(tmp_path / "model.pth.tar", pickle.dumps({"model": Dangerous()}))
    with pytest.raises(InputError, match=r"model\.pth\.tar asks for (posix|os|nt)\.system"):
        checkpoint_zip.read(path.read_bytes(), str(path))


def test_a_broken_archive_is_named(tmp_path):
    data = checkpoint_zip.write({"w": np.arange(1000.0)})
    with pytest.raises(InputError, match=r"half\.pth\.tar is a broken checkpoint"):
        checkpoint_zip.read(data[: len(data) // 2], "half.pth.tar")


def test_unknown_names_and_missing_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"no model and no file called chgnet-9; models: .*chgnet-0\.3\.0"):
        pretrained.load("chgnet-9")
    with pytest.raises(InputError, match=r"no weights at .*absent\.nqx"):
        pretrained.load(NEQUIX, source=tmp_path / "absent.nqx")
    with pytest.raises(InputError, match=r"no nequix-mp-1\.nqx in "):
        pretrained.load(NEQUIX, source=tmp_path)


# Files of Nequix: no names, no hash inside, so every array is checked.


def test_a_nequix_file_cut_off_anywhere_is_named(nequix_file):
    data = nequix_file.read_bytes()
    header = data.index(b"\n") + 1
    for length in (header - 10, header, header + 60, header + 400, len(data) // 2, len(data) - 100):
        with pytest.raises(InputError, match=r"^tuned\.nqx .*(check the path|fetch it again)$"):
            nequix_weights.read(data[:length], "tuned.nqx")


def test_a_nequix_file_of_another_shape_or_with_objects_is_named(nequix_file, tmp_path):
    arguments, _ = nequix_weights.read(nequix_file.read_bytes(), "published")
    tail = nequix_file.read_bytes().split(b"\n", 1)[1]

    def with_settings(**settings) -> bytes:
        return json.dumps(arguments | settings).encode() + b"\n" + tail

    fewer = with_settings(atomic_numbers=arguments["atomic_numbers"][:-1])
    with pytest.raises(
        InputError, match=r"tuned\.nqx: atom_energies is float32 \(89,\), not float32 \(88,\)"
    ):
        nequix_weights.read(fewer, "tuned.nqx")
    with pytest.raises(InputError, match=r"tuned\.nqx has index_weights=True"):
        nequix_weights.read(with_settings(index_weights=True), "tuned.nqx")
    with pytest.raises(InputError, match=r"hidden_irreps '8x0o' are not 0e"):
        nequix_weights.read(with_settings(hidden_irreps="8x0o"), "tuned.nqx")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Dangerous()], object), allow_pickle=True)
    header = json.dumps(arguments).encode() + b"\n"
    with pytest.raises(InputError, match=r"broken at atom_energies"):
        nequix_weights.read(header + objects.read_bytes(), "tuned.nqx")


def test_values_that_are_not_finite_are_named(nequix_file):
    arguments, arrays = nequix_weights.read(nequix_file.read_bytes(), "published")
    config = nequix_weights.read_config(arguments, "published")
    arrays = {**arrays, "readout.0": np.full_like(arrays["readout.0"], np.nan)}
    with pytest.raises(InputError, match=r"tuned: readout\.0 holds NaN"):
        nequix_weights.from_published(arrays, config, "tuned")


# Weights that come with the package.


def test_bundled_weights_need_no_cache_and_no_network(empty_cache):
    potential, _ = pretrained.load(BUNDLED)
    assert potential.name == BUNDLED
    assert BUNDLED in pretrained.cached()
    assert pretrained.verify(BUNDLED).passed
    assert (pretrained.fetch(BUNDLED) / f"{BUNDLED}.safetensors").is_file()
    assert not empty_cache.exists()


@pytest.mark.parametrize("damage", ["cut off", "changed", "missing"])
def test_damaged_bundled_weights_are_named(tmp_path, monkeypatch, damage):
    content = (sources.BUNDLED / f"{BUNDLED}.safetensors").read_bytes()
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    if damage != "missing":
        changed = content[:-9] if damage == "cut off" else content[:-1] + b"?"
        (tmp_path / f"{BUNDLED}.safetensors").write_bytes(changed)
    with pytest.raises(InputError, match=r"adapt-silicon.*come with this package: install it again"):
        pretrained.load(BUNDLED)
    assert not pretrained.verify(BUNDLED).passed


def test_tuned_bundled_weights_round_trip_and_go_to_no_other_package(tmp_path):
    _, params = pretrained.load(BUNDLED)
    tuned = tmp_path / "tuned.safetensors"
    pretrained.save(tuned, BUNDLED, params)
    again, back = pretrained.load(tuned)
    assert again.name == BUNDLED
    for a, b in zip(*map(jax.tree.leaves, (params, back)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="adapt-silicon goes back to no other package"):
        export(tmp_path / "out.safetensors", tuned)
    other = weights_file.read(tuned)._replace(model=NEQUIX)
    weights_file.write(tuned, other)
    with pytest.raises(InputError, match="is not the published adapt-silicon"):
        pretrained.load(BUNDLED, source=tuned)


# The cache.


@pytest.fixture
def cached_nequix(nequix_file, empty_cache):
    pretrained.fetch(NEQUIX, source=nequix_file)
    return empty_cache / NEQUIX


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut off", "changed", "missing"])
def test_a_damaged_cache_is_input_at_fault_and_can_be_mended(cached_nequix, nequix_file, file, damage):
    path = cached_nequix / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut off" else content.replace(b"a", b"b"))
    with pytest.raises(
        InputError, match=r"nequix-mp-1.*delete the folder .*, or run `bptt-relax models fetch nequix-mp-1`"
    ):
        pretrained.load(NEQUIX)
    assert not pretrained.verify(NEQUIX).passed
    pretrained.fetch(NEQUIX, source=nequix_file)
    assert pretrained.verify(NEQUIX).passed


def test_the_cache_keeps_the_licence_and_leaves_nothing_else(cached_nequix):
    assert "Teddy Koker" in (cached_nequix / "LICENSE.txt").read_text()
    assert sorted(p.name for p in cached_nequix.parent.iterdir()) == [NEQUIX]


def test_weights_of_another_release_are_not_taken_for_this_one(cached_nequix, monkeypatch):
    model = registry.MODELS[NEQUIX]
    assert cache.read(model) is not None
    assert cache.read(model._replace(sha256="0" * 64)) is None


# Fetching: what the user can't help is an error of the model.


class Server(http.server.BaseHTTPRequestHandler):
    answer = b""
    promised = 0

    def do_GET(self):
        self.send_response(200 if self.path.endswith(".nqx") else 404)
        self.send_header("Content-Length", str(self.promised or len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Pretend that the published file is at an address of this machine, and answer there with some bytes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer(data: bytes, file: str = "nequix-mp-1.nqx", promised: int = 0):
        monkeypatch.setattr(Server, "answer", data)
        monkeypatch.setattr(Server, "promised", promised)
        address = registry.PublicFile(f"http://127.0.0.1:{server.server_port}/{file}")
        monkeypatch.setitem(registry.MODELS, NEQUIX, registry.MODELS[NEQUIX]._replace(source=address))

    yield answer
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetched_weights_are_kept(serve, nequix_file, empty_cache):
    serve(nequix_file.read_bytes())
    pretrained.load(NEQUIX)
    serve(b"the network is not asked again")
    pretrained.load(NEQUIX)
    assert (empty_cache / NEQUIX / "weights.safetensors").exists()


@pytest.mark.parametrize("kind", ["page", "pointer", "other", "more", "cut off", "broken off", "absent"])
def test_a_wrong_answer_is_named_and_not_kept(serve, nequix_file, empty_cache, kind):
    data = nequix_file.read_bytes()
    message = r"the weights of nequix-mp-1 could not be fetched \(.*{}.*models fetch nequix-mp-1 --source"
    if kind in IMPOSTORS:
        serve(IMPOSTORS[kind][0])
        message = message.format(IMPOSTORS[kind][1])
    elif kind == "other":
        serve((SHARED / "nequix-oam-1.nqx").read_bytes())
        message = message.format("is not the published nequix-mp-1")
    elif kind == "more":
        serve(data + data)
        message = message.format("is not the published nequix-mp-1")
    elif kind == "cut off":
        serve(data[:1000])
        message = message.format("1000 of the 2842366 bytes")
    elif kind == "broken off":
        serve(data[:1000], promised=len(data))
        message = message.format("")
    else:
        serve(b"", file="absent.txt")
        message = message.format("404")
    with pytest.raises(ModelError, match=message):
        pretrained.load(NEQUIX)
    assert not empty_cache.exists()
