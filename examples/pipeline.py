"""In a pipeline: the command with JSON output, and the same from Python.

python examples/pipeline.py [folder]
"""

import json
import subprocess
import sys
from pathlib import Path

import idem_md


def main(folder=".", n=200):
    """Both ways give the same numbers; returns the JSON object."""
    out = Path(folder) / "samples.dcd"
    command = [
        str(Path(sys.executable).parent / "idem-md"),
        "sample",
        "lj13",
        "-n",
        str(n),
        "--nfe",
        "25",
        "--seed",
        "7",
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # one line that says what was expected and what came
        raise SystemExit(done.stderr)
    result = json.loads(done.stdout)
    print("command:", json.dumps({k: result[k] for k in ("n", "ess", "mean_energy", "log_z", "energy_calls", "files")}))

    ensemble = idem_md.load_sampler("lj13").sample(n, nfe=25, seed=7)
    print(
        "python: ",
        json.dumps(
            {"n": len(ensemble), "ess": ensemble.ess, "mean_energy": ensemble.mean_energy[0], "log_z": ensemble.log_z}
        ),
    )
    again = idem_md.load_ensemble(out)  # what the next stage would read
    assert again.ess == result["ess"] == ensemble.ess
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
