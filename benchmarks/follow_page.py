"""Follow a page of the documentation word for word in a fresh virtual environment, as a newcomer would.

    python benchmarks/follow_page.py docs/guides/first-system.md FOLDER

Files that the page names are written, commands are run one after the other in the folder, and each is printed with the
seconds that it took.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(page: str, folder: str) -> None:
    """Stops at the first command that fails."""
    home = Path(folder).resolve()
    home.mkdir(parents=True)
    source = home / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.so"))
    start = time.monotonic()
    venv.create(home / "venv", with_pip=True)
    path = f"{home / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}
    text = Path(page).read_text(encoding="utf-8")
    for language, title, block in re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', text, flags=re.S | re.M):
        if title:
            (home / title).write_text(block)
            continue
        assert language == "bash", language
        for command in block.splitlines():
            began, where = time.monotonic(), source if command.startswith("pip ") else home
            subprocess.run(["bash", "-c", command], cwd=where, env=environment, check=True)
            print(f"--- {time.monotonic() - began:.0f} s: {command}", flush=True)
    print(f"--- {time.monotonic() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
