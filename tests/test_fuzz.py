"""Files with bytes changed, cut or doubled, headers with other values: only package errors, no memory, no hang."""

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

import idem_md
from idem_md import IdemError, TrainingConfig
from idem_md.ase.cache import read_card
from idem_md.training import load_config, recover

pytestmark = pytest.mark.slow

EXAMPLES = 185  # of each of eleven kinds: more than 2000
SECONDS = 20
GIBIBYTE = 2**30


@pytest.fixture(scope="module")
def originals(tmp_path_factory, tiny_toml):
    """A folder with a small one of every kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "tiny.toml").write_text(tiny_toml(1))
    idem_md.train(load_config(folder / "tiny.toml"), folder / "run")
    # A system that is not built in is described in the file.
    system = replace(idem_md.get_system("gmm40"), name="mixture")
    ensemble = idem_md.load_sampler("gmm40", system).sample(30, nfe=4, last_step="plain")
    for suffix in (".dcd", ".xtc"):
        ensemble.save(folder / f"x{suffix}")
    card = {"positions": [[[0.0] * 3] * 2] * 4, "energies": [1.0] * 4, "length_angstrom": 3.4, "sigma_data": 0.5}
    (folder / "potential.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(autouse=True)
def neither_memory_nor_time():
    def late(*_):
        raise AssertionError(f"a file took more than {SECONDS} seconds")

    handler, limits = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIBIBYTE, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


@st.composite
def mutations(draw):
    """A function of bytes."""
    kind = draw(st.sampled_from(["set", "cut", "insert", "remove", "double", "zero"]))
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    new = draw(st.binary(min_size=1, max_size=20))
    # Most of what can go wrong is in the first few hundred bytes, or at the end.
    near = draw(st.sampled_from([None, 400, -400]))

    def mutate(data):
        size = len(data) if near is None else min(abs(near), len(data))
        k = int(where * (size - 1)) + (len(data) - size if near is not None and near < 0 else 0)
        return {
            "set": data[:k] + new + data[k + len(new) :],
            "cut": data[:k],
            "insert": data[:k] + new + data[k:],
            "remove": data[:k] + data[k + length :],
            "double": data[: k + length] + data[k:],
            "zero": data[:k] + bytes(length) + data[k + length :],
        }[kind]

    return mutate


def fuzzed(function):
    """The same number of examples for all."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow, derandomize=True)(function)


def survives(load):
    """It works, or it is refused in one line."""
    signal.alarm(SECONDS)
    try:
        load()
    except IdemError as error:
        assert str(error)
    finally:
        signal.alarm(0)


LOADERS = {
    "run/model.safetensors": idem_md.load_sampler,
    "run/state.safetensors": lambda path: recover(path.parent),
    "x.npz": idem_md.load_ensemble,
    "x.dcd": idem_md.load_ensemble,
    "x.xtc": idem_md.load_ensemble,
    "potential.json": lambda path: read_card(path.parent),
    "tiny.toml": load_config,
}


@pytest.mark.parametrize("name", LOADERS)
def test_bytes(originals, tmp_path, name):
    source = originals / name
    data, path = source.read_bytes(), tmp_path / source.name
    if source.suffix == ".safetensors":  # as older versions wrote them, without a checksum that finds everything
        with safe_open(source, framework="pt") as handle:
            meta, tensors = handle.metadata(), {key: handle.get_tensor(key) for key in handle.keys()}
        data = save(tensors, {key: value for key, value in meta.items() if key != "sha256"})
    if name in ("x.dcd", "x.xtc"):
        (tmp_path / "x.npz").write_bytes((originals / "x.npz").read_bytes())

    @fuzzed
    @given(mutations())
    def check(mutate):
        path.write_bytes(mutate(data))
        survives(lambda: LOADERS[name](path))

    check()


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def paths_of(table, before=()):
    """Every key of nested tables and lists."""
    items = table.items() if isinstance(table, dict) else enumerate(table[:3]) if isinstance(table, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from paths_of(value, (*before, key))


def put(table, path, value):
    """A copy with another value there."""
    copy = json.loads(json.dumps(table))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["model", "state", "npz"])
def test_values_of_headers(originals, tmp_path, name):
    """Valid JSON, and a file that is otherwise whole, with another value somewhere."""
    if name == "npz":
        with np.load(originals / "x.npz") as z:
            arrays = dict(z)
        header, path = json.loads(str(arrays.pop("provenance"))), tmp_path / "x.npz"
        (tmp_path / "x.dcd").write_bytes((originals / "x.dcd").read_bytes())
    else:
        with safe_open(originals / "run" / f"{name}.safetensors", framework="pt") as handle:
            meta, tensors = handle.metadata(), {key: handle.get_tensor(key) for key in handle.keys()}
        header, path = json.loads(meta.pop("json")), tmp_path / f"{name}.safetensors"
        meta.pop("sha256")
    places = list(paths_of(header))

    @fuzzed
    @given(st.sampled_from(places), ODD)
    def check(place, value):
        text = json.dumps(put(header, place, value))
        if name == "npz":
            np.savez(path, **arrays, provenance=np.array(text))
            survives(lambda: idem_md.load_ensemble(path.with_suffix(".dcd")))
        else:
            path.write_bytes(save(tensors, meta | {"json": text}))
            survives(lambda: recover(tmp_path) if name == "state" else idem_md.load_sampler(path))

    check()


def test_values_of_configurations(tiny):
    table = tiny.model_dump()
    places = list(paths_of(table))

    @fuzzed
    @given(st.sampled_from(places), ODD)
    def check(place, value):
        survives(lambda: TrainingConfig.parse(put(table, place, value), "fuzz"))

    check()
