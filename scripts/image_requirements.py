"""What the image is to contain, from pyproject.toml and requirements.lock. Standard library only.

image_requirements.py DIR      writes DIR/requirements.txt (pyproject's dependencies) and
                               DIR/constraints.txt (the lock's versions)
image_requirements.py DIR -v   checks every file of DIR/wheels against the lock's hashes; exit code 1 for a stranger
"""

import hashlib
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, set[str]]]:
    """name -> (version, sha256 sums of its files)."""
    found: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        start = re.match(r"([A-Za-z0-9][\w.-]*)\s*==\s*([\w.+!-]+)", line)
        if start:
            name = canonical(start[1])
            found[name] = (start[2], set())
        if name:
            found[name][1].update(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def main() -> int:
    target = Path(sys.argv[1])
    lock = locked()
    if "-v" in sys.argv[2:]:
        bad = [
            file.name
            for file in (target / "wheels").iterdir()
            if hashlib.sha256(file.read_bytes()).hexdigest()
            not in lock.get(canonical(file.name.split("-")[0]), ("", set()))[1]
        ]
        if bad:
            print(f"not the files of requirements.lock: {', '.join(sorted(bad))}", file=sys.stderr)
        return 1 if bad else 0
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (target / "requirements.txt").write_text("".join(f"{line}\n" for line in wanted))
    (target / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, (version, _) in lock.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
