"""A folder that is a Space of the Hugging Face Hub, with what the app needs alone: `python -m
tools.space OUT`

It is taken from the files that git knows, as they are now. A second call replaces what the first
one made, and nothing that somebody else did."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dmq.errors import DmqError
from dmq.store.folders import write_folder


ROOT = Path(__file__).resolve().parent.parent
MARK = ".dmq-space"  # a file in what was made here
FOLDERS = ("dmq/", "pages/", "assets/")
FILES = ("app.py", "README.md", "LICENSE")
LARGE = ("safetensors", "parquet", "png", "npz")
# ZeroGPU offers torch up to 2.11, which is what pyproject.toml begins with; Gradio comes with
# `sdk_version`.
RANGES = {"torch": ">=2.11,<2.12"}
LEFT_OUT = ("gradio",)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.space", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, metavar="OUT")
    try:
        made = make(parser.parse_args(arguments).folder)
    except DmqError as error:
        print(f"space: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    print(
        f"{made}: {size / 1e6:.0f} MB; create a Gradio Space with ZeroGPU, and push this folder to "
        "it (see README)"
    )
    return 0


def make(folder: Path) -> Path:
    """Write the Space into `folder`, which appears only when complete.

    Raises DmqError for what was not made here.
    """
    if (
        folder.exists()
        and not (folder / MARK).is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise DmqError(
            f"{folder}: was not made by this command, and stays as it is; name a new folder."
        )
    if (folder / ".git").exists():
        raise DmqError(
            f"{folder}: is a git repository, whose history would go; write elsewhere, then copy."
        )
    names = wanted()
    with write_folder(folder) as part:
        for name in names:
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        (part / "requirements.txt").write_text(
            requirements((ROOT / "requirements.txt").read_text("utf-8")), "utf-8"
        )
        lfs = "".join(f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE)
        (part / ".gitattributes").write_text(lfs, "utf-8")
        (part / ".gitignore").write_text("/runs/\n__pycache__/\n*.pyi\n", "utf-8")
        (part / MARK).write_text(
            "Made by tools/space.py, which may replace this folder.\n", "utf-8"
        )
    return folder


def wanted() -> list[str]:
    """The files of a Space: the app, the library, what ships, and what the README shows or leads
    to.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = (
        subprocess.run(listed, cwd=ROOT, capture_output=True, check=True)
        .stdout.decode()
        .split("\0")
    )
    shown = re.findall(
        r"\]\(((?:assets/screenshots|docs)/[^)#]+)", (ROOT / "README.md").read_text("utf-8")
    )
    return sorted(
        name
        for name in filter(None, named)
        if (ROOT / name).is_file()
        and (name in (*FILES, *shown) or name.startswith(FOLDERS))
        and (not name.startswith("assets/screenshots/") or name in shown)
    )


def requirements(pinned: str) -> str:
    """The packages of a Space: pins as they are, but for what the Space brings or decides
    itself.
    """
    lines = []
    for line in filter(None, map(str.strip, pinned.splitlines())):
        name = re.match(r"[\w.-]+", line)[0]
        if name not in LEFT_OUT:
            lines.append(name + RANGES[name] if name in RANGES else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
