"""Every example runs; the tests call its `main` with small numbers."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_forgotten():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {p.stem for p in EXAMPLES.glob("*.py")} <= tested


def test_score_target_noise(tmp_path):
    """At K = 1024 the noise of S_T, S_D and the mix, per coordinate, is what an independent prototype measured."""
    results = load("score_target_noise").main(tmp_path, points=16, repeats=32, draws=(256, 1024), chains=8, steps=800)
    assert (tmp_path / "score_target_noise.png").stat().st_size > 10_000
    prototype = {0.01: (0.2, 4.6, 0.2), 0.1: (27, 7.5, 6.3), 0.2: (117, 4.6, 4.6), 0.8: (12, 0.94, 0.90)}
    for sigma, want in prototype.items():
        rows, scale = results[sigma]
        k, _, noise, bias = rows[1]
        assert k == 1024
        for got, expected in zip(noise, want):
            assert expected / 1.7 < got < expected * 1.7, (sigma, noise, want)
        assert noise[2] <= 1.05 * min(noise[:2]) + 0.1 * scale  # the mix is never much worse than either
        assert all(b < scale + n for b, n in zip(bias, noise))
    # More draws, less noise, where the weights spread over many of them.
    (_, _, few, _), (_, _, many, _) = results[0.01][0]
    assert all(1.6 < a / b < 2.5 for a, b in zip(few, many))
