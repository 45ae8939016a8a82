"""The architecture: which package may import which, what is loaded when, and how large things may get."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import idem_md
from idem_md.cli.main import app
from idem_md.diffusion import PathSampler

ROOT = Path(idem_md.__file__).parent
CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"

# What CONTRIBUTING promises, and is read from there by a test.
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_BODY = 400, 80
MOST_PARAMETERS, MOST_OPTIONS = 15, 14
# What is called most has fewer.
FEWER_PARAMETERS = {idem_md.Sampler.sample: 9, idem_md.Sampler.scan: 6}
FEWER_PARAMETERS |= {method: 5 for name, method in vars(PathSampler).items() if inspect.isfunction(method)}

# The base layer: every package may import it, and it may import itself as listed here.
BASE = {
    "errors": set(),
    "units": {"errors"},
    "geometry": set(),
    "files": {"errors"},
    "provenance": set(),
    "seeds": set(),
    "systematic": set(),
    "forcefields": set(),
    "torch_state": set(),
    "checks": {"errors"},
    "registry": {"errors"},
    "rows": {"errors"},
    "tables": {"errors"},
    "extras": {"errors"},
    "progress": set(),
    "rounding": set(),
    "callers": set(),
}
# Package or module -> others that it may import.
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
    "tensor_files": {"nets", "diffusion"},
    "twin": {"energies", "systems", "chains", "nets", "tensor_files", "ensemble"},
    "checkpoint": {"energies", "systems", "nets", "diffusion", "tensor_files", "twin"},
    "training": {
        "native",
        "energies",
        "systems",
        "chains",
        "nets",
        "diffusion",
        "targets",
        "tensor_files",
        "twin",
        "checkpoint",
    },
    "ensemble": {"energies", "systems", "chains"},
    "tuning": {
        "energies",
        "systems",
        "chains",
        "nets",
        "diffusion",
        "tensor_files",
        "checkpoint",
        "training",
        "ensemble",
    },
    "distillation": {"nets", "diffusion", "tensor_files", "checkpoint", "training"},
    "sampler": {"native", "energies", "systems", "chains", "diffusion", "twin", "checkpoint", "ensemble", "training"},
    "baselines": {"energies", "systems", "chains", "ensemble"},
    "analysis": {"energies", "systems", "chains", "ensemble"},
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
    "ase": {"energies", "systems", "twin", "training", "tuning", "ensemble", "sampler"},
    "cli": {
        "twin",
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


def files():
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def module_of(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a file."""
    parts = ("idem_md", *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Dotted names that a file imports from idem_md, at the top, in functions and for type checkers alike."""
    package = ("idem_md", *path.relative_to(root).parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("idem_md.")}


def imported_packages(path: Path, root: Path = ROOT) -> set[str]:
    """Packages, and modules at the top level, that a file imports."""
    return {name.split(".")[1] for name in imported(path, root)}


def order_of(edges: dict[str, set[str]]) -> list[str]:
    """Each after those that it imports; an AssertionError if there is a circle."""
    order, left = [], dict(edges)
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        order += free
        left = {name: others for name, others in left.items() if name not in free}
    return order


def test_packages_import_only_what_they_may():
    allowed = BASE | {package: others | BASE.keys() for package, others in EDGES.items()}
    broken, seen = [], set()
    for path in files():
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert package in allowed, f"{path} is in no package of the table; give it one"
        seen.add(package)
        others = imported_packages(path) - {package} - allowed[package]
        broken += [f"{path.relative_to(ROOT)}: {other}" for other in others]
    assert not broken, broken
    assert seen == set(allowed), "a package of the table is gone"
    order = order_of(EDGES)
    assert order.index("training") < order.index("measurements")


def test_no_files_import_each_other():
    """Neither at run time nor for type checkers; a package's own file stands for what it names."""
    modules = {module_of(path): path for path in files()}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for target in imported(path):
            # "from .a import b" is of the module a.b if there is one, else of a.
            found.add(target if target in modules else target.rpartition(".")[0])
        edges[name] = found & modules.keys() - {name}
    # The compiled module and its stub are no file of ours: "from . import _native".
    edges["idem_md.native.module"].discard("idem_md.native")
    assert len(order_of(edges)) == len(modules)


def test_resolves_relative_imports(tmp_path):
    package = tmp_path / "nets"
    package.mkdir()
    (package / "a.py").write_text(
        "from .. import native\nfrom ..training.loop import init\nfrom .b import c\nimport idem_md.cli\n"
    )
    assert imported_packages(package / "a.py", tmp_path) == {"native", "training", "nets", "cli"}
    assert "idem_md.nets.b.c" in imported(package / "a.py", tmp_path)
    with pytest.raises(AssertionError, match="import each other"):
        order_of({"a": {"b"}, "b": {"a"}, "c": set()})


def test_files_and_functions_stay_small():
    long_files, long_bodies = [], []
    for path in files():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MOST_LINES_OF_A_FILE:
            long_files.append(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > MOST_LINES_OF_A_BODY:
                    long_bodies.append(f"{path.relative_to(ROOT)}: {node.name}, {lines} lines")
    assert not long_files, long_files
    assert not long_bodies, long_bodies


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


def commands(command=None, name="idem-md"):
    """All commands, by name."""
    command = typer.main.get_command(app) if command is None else command
    yield name, command
    for key, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {key}")


def test_functions_take_few_arguments_and_name_their_results():
    # The options of a command are its parameters, and counted below.
    bodies = {inspect.unwrap(c.callback) for _, c in commands() if c.callback}
    of_commands = {f"{f.__module__}.{f.__name__}" for f in bodies}
    wide, unnamed, seen = [], [], 0
    for name, function in public_functions():
        seen += 1
        signature = inspect.signature(function)
        count = len(signature.parameters) - ("self" in signature.parameters)
        if name not in of_commands and count > FEWER_PARAMETERS.get(function, MOST_PARAMETERS):
            wide.append((name, count))
        annotation = signature.return_annotation
        returned = ast.parse(annotation if isinstance(annotation, str) else "None", mode="eval").body
        if isinstance(returned, ast.Subscript) and ast.unparse(returned.value) == "tuple":
            if isinstance(returned.slice, ast.Tuple) and len(returned.slice.elts) > 3:
                unnamed.append(name)
    assert seen > 200 and len(FEWER_PARAMETERS) > 5
    assert not wide, wide
    assert not unnamed, unnamed


def test_commands_have_few_options():
    crowded = {}
    for name, command in commands():
        shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
        if len(shown) > MOST_OPTIONS:
            crowded[name] = len(shown)
    assert not crowded, crowded


def test_contributing_says_what_is_tested():
    text = " ".join(CONTRIBUTING.read_text(encoding="utf-8").split())
    for rule in (
        f"files of at most {MOST_LINES_OF_A_FILE} lines",
        f"function bodies of at most {MOST_LINES_OF_A_BODY} lines",
        f"at most {MOST_PARAMETERS} parameters",
        f"`Sampler.sample` {FEWER_PARAMETERS[idem_md.Sampler.sample]}",
        f"`Sampler.scan` {FEWER_PARAMETERS[idem_md.Sampler.scan]}",
        f"methods of `PathSampler` {FEWER_PARAMETERS[PathSampler.sample]}",
        f"commands of at most {MOST_OPTIONS} visible options",
    ):
        assert rule in text, rule


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


@pytest.mark.slow
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
