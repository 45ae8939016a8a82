"""The house: which room may import which, what is loaded when, and how large things may get."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import idem_md

ROOT = Path(idem_md.__file__).parent

# Every room may import the ground floor, which may import itself as listed here.
GROUND = {
    "errors": set(),
    "units": {"errors"},
    "geometry": set(),
    "files": {"errors"},
    "provenance": set(),
    "seeds": set(),
    "forcefields": set(),
    "torch_state": set(),
    "checks": {"errors"},
    "registry": {"errors"},
    "rows": {"errors"},
    "tables": {"errors"},
}
# Room -> other rooms that it may import.
EDGES = {
    "__main__": {"cli"},
    "native": set(),
    "energies": {"native"},
    "systems": {"energies"},
    "testing": {"energies"},
    "chains": {"energies"},
    "nets": {"native", "systems"},
    "diffusion": {"energies", "chains", "nets"},
    "targets": {"energies", "chains"},
    "checkpoint": {"systems", "nets", "diffusion"},
    "training": {"native", "energies", "systems", "chains", "nets", "diffusion", "targets", "checkpoint"},
    "tuning": {"energies", "systems", "chains", "nets", "diffusion", "checkpoint", "training", "ensemble"},
    "distillation": {"nets", "diffusion", "checkpoint", "training"},
    "ensemble": {"systems", "chains"},
    "sampler": {"native", "energies", "systems", "chains", "diffusion", "checkpoint", "ensemble", "training"},
    "baselines": {"energies", "systems", "chains", "ensemble"},
    "analysis": {"energies", "chains", "ensemble"},
    "report": {"ensemble", "analysis"},
    "measurements": {
        "native",
        "energies",
        "systems",
        "chains",
        "diffusion",
        "targets",
        "ensemble",
        "sampler",
        "baselines",
        "analysis",
    },
    "ase": {"energies", "systems", "training", "tuning", "ensemble", "sampler"},
    "cli": {
        "energies",
        "diffusion",
        "systems",
        "checkpoint",
        "training",
        "tuning",
        "distillation",
        "ensemble",
        "sampler",
        "baselines",
        "analysis",
        "report",
        "measurements",
    },
}


def imported_rooms(path: Path, root: Path = ROOT) -> set[str]:
    """Rooms of idem_md that a file imports, resolved from absolute and relative imports."""
    package = ("idem_md", *path.relative_to(root).parts[:-1])
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("idem_md.")}
    return rooms


def files():
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def test_rooms_import_only_what_they_may():
    allowed = GROUND | {room: others | GROUND.keys() for room, others in EDGES.items()}
    broken, seen = [], set()
    for path in files():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert room in allowed, f"{path} is in no room; give it one"
        seen.add(room)
        broken += [f"{path.relative_to(ROOT)}: {other}" for other in imported_rooms(path) - {room} - allowed[room]]
    assert not broken, broken
    assert seen == set(allowed), "a room of the table is gone"


def test_the_edges_have_no_cycle():
    order, left = [], dict(EDGES)
    while left:
        free = [room for room, others in left.items() if not others & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        order += free
        left = {room: others for room, others in left.items() if room not in free}
    assert order.index("training") < order.index("measurements")


def test_resolves_relative_imports(tmp_path):
    room = tmp_path / "nets"
    room.mkdir()
    (room / "a.py").write_text(
        "from .. import native\nfrom ..training.loop import init\nfrom .b import c\nimport idem_md.cli\n"
    )
    assert imported_rooms(room / "a.py", tmp_path) == {"native", "training", "nets", "cli"}


def test_files_stay_small():
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files()}
    assert not {name: n for name, n in sizes.items() if n > 400}


def public_functions():
    """Functions and methods of the package that have no underscore anywhere in their name."""
    for info in pkgutil.walk_packages([str(ROOT)], "idem_md."):
        if info.name.rsplit(".", 1)[-1].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isfunction(thing):
                yield f"{info.name}.{name}", thing
            elif inspect.isclass(thing):
                for key, method in vars(thing).items():
                    method = getattr(method, "__func__", getattr(method, "fget", method))
                    if inspect.isfunction(method) and (key == "__init__" or not key.startswith("_")):
                        if method.__module__ == info.name:
                            yield f"{info.name}.{name}.{key}", method


def test_functions_take_few_arguments_and_name_their_results():
    wide, unnamed, seen = [], [], 0
    for name, function in public_functions():
        seen += 1
        signature = inspect.signature(function)
        # The options of a command are its parameters, and documented one by one.
        most = 23 if name.startswith("idem_md.cli.") else 13
        if len(signature.parameters) > most + ("self" in signature.parameters):
            wide.append((name, len(signature.parameters)))
        annotation = signature.return_annotation
        returned = ast.parse(annotation if isinstance(annotation, str) else "None", mode="eval").body
        if isinstance(returned, ast.Subscript) and ast.unparse(returned.value) == "tuple":
            if isinstance(returned.slice, ast.Tuple) and len(returned.slice.elts) > 3:
                unnamed.append(name)
    assert seen > 200
    assert not wide, wide
    assert not unnamed, unnamed


def run_fresh(code: str, tmp_path) -> str:
    """What a fresh interpreter prints, away from the sources."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


# pydantic is not among these for the command line: typer has its own use for it.
HEAVY = ("torch", "torch_geometric", "openmm", "pydantic", "ot", "matplotlib", "mdtraj", "scipy", "ase.calculators")
LOADED = f"import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"


def test_loading_an_ensemble_loads_little(tmp_path):
    idem_md.WeightedEnsemble([[[0.0, 0, 0]] * 13], [1.0], [0.5], idem_md.get_system("lj13")).save(tmp_path / "a.dcd")
    loaded = run_fresh(f"import idem_md; assert idem_md.load_ensemble('a.dcd').log_z == 0.5\n{LOADED}", tmp_path)
    assert not set(loaded.split()) & {"openmm", "torch_geometric", "pydantic", "ase.calculators", "matplotlib", "ot"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["systems"], ["bench"], ["sample", "-h"], ["train", "-h"], ["--version"]]
)
def test_what_needs_no_numerics_loads_none(arguments, tmp_path):
    call = f"import sys; sys.argv = ['idem-md', *{arguments!r}]\nfrom idem_md.cli import main\n"
    code = f"{call}try: main()\nexcept SystemExit as e: assert not e.code\nprint(); {LOADED}"
    printed = run_fresh(code, tmp_path).splitlines()
    assert len(printed) > 1 and set(printed[-1].split()) <= {"pydantic"}


def test_importing_figures_leaves_the_backend_alone(tmp_path):
    code = "import idem_md.report, idem_md.measurements, sys; print('matplotlib.pyplot' in sys.modules)"
    assert run_fresh(code, tmp_path).strip() == "False"


def test_public_names_are_there_and_seen_by_type_checkers():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(idem_md.__all__)
    for name in idem_md.__all__:
        assert getattr(idem_md, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lj13'"):
        idem_md.lj13  # noqa: B018
    assert (ROOT / "py.typed").exists()
