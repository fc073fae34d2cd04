"""The container image's own files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_programs_of_the_image_use_the_interpreter_that_every_base_image_has():
    """The environment's: python:3.13-slim, for one, has no /usr/bin/python3."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    python = "/opt/pyconsul/bin/python3"
    assert "python3 -m venv /opt/pyconsul " in dockerfile
    assert f"'#!{python}\\nimport sys" in dockerfile
    first = {path.name: path.read_text().partition("\n")[0] for path in (ROOT / "docker").iterdir() if path.is_file()}
    programs = {name: line for name, line in first.items() if "python" in line}
    assert programs == dict.fromkeys(["check-http", "pyconsul-init"], f"#!{python} -IS")
