"""Imports go only downward; siblings do not import each other."""

import ast
from pathlib import Path

import idem_md

# Room -> layer. A room may import rooms of a strictly lower layer, and itself.
LAYERS = {
    "checks": 0, "units": 0, "files": 0, "forcefields": 0, "geometry": 1, "kernels": 1, "energies": 2, "systems": 3, "testing": 3, "bench": 4,
    "diffusion": 4, "nets": 4, "targets": 4, "sampling": 5, "training": 6, "trajectory": 7, "analysis": 7,
    "ensemble": 8, "baselines": 9, "sampler": 9, "figures": 9, "report": 10, "evaluate": 10, "reproduce": 10, "ase": 10, "cli_bench": 11, "cli": 12,
}
ROOT = Path(idem_md.__file__).parent


def imported_rooms(path: Path, root: Path = ROOT) -> set[str]:
    """Rooms of idem_md that a file imports, resolved from absolute and relative imports."""
    package = ("idem_md", *path.relative_to(root).parts[:-1])
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_imports_go_downward():
    broken = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts == ("__init__.py",):
            continue
        room = parts[0].removesuffix(".py")
        assert room in LAYERS, f"{path} is in no layer; give its room one"
        for other in imported_rooms(path) - {room}:
            if LAYERS.get(other, 99) >= LAYERS[room]:
                broken.append(f"{path.relative_to(ROOT)} ({LAYERS[room]}) imports {other} ({LAYERS.get(other)})")
    assert not broken, broken


def test_resolves_relative_imports(tmp_path):
    room = tmp_path / "nets"
    room.mkdir()
    (room / "a.py").write_text("from .. import kernels\nfrom ..training.loop import init\nfrom .b import c\nimport idem_md.cli\n")
    assert imported_rooms(room / "a.py", tmp_path) == {"kernels", "training", "nets", "cli"}


def test_files_stay_small():
    long = {p.name: n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, long
