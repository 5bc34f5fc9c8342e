"""Writes the tables of values in both charts' READMEs from the comments in their values.yaml.

    tests/python/.venv/bin/python helm/readme.py            # writes them
    tests/python/.venv/bin/python helm/readme.py --check    # fails when they are not current

A comment right above a key describes it. A key with a comment, and without one further down, is a row with all that is
in it; a key without comments anywhere is a problem.
"""

import json
import re
import sys
from pathlib import Path

import yaml

CHARTS = [Path(__file__).parent / name for name in ("control-plane", "agent")]
BEGIN, END = "<!-- values -->", "<!-- /values -->"


def main():
    stale = []
    for chart in CHARTS:
        readme = chart / "README.md"
        old = readme.read_text()
        new = with_table(old, chart / "values.yaml")
        if old == new:
            continue
        if "--check" in sys.argv:
            stale.append(str(readme))
        else:
            readme.write_text(new)
    if stale:
        sys.exit(f"not current: {', '.join(stale)}; run helm/readme.py")


def with_table(readme, values):
    """The README with the table of these values between its marks."""
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{path}` | {shown(default)} | {text} |" for path, default, text in rows(values)]
    return f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}"


def rows(values):
    """(path, default, description) of everything that has a description, in the order of the file."""
    described = comments(values.read_text())
    defaults = yaml.safe_load(values.read_text())
    return list(walk(defaults, described, ()))


def walk(values, described, above):
    for key, value in values.items():
        path = (*above, key)
        deeper = any(other[: len(path)] == path and other != path for other in described)
        if isinstance(value, dict) and deeper:
            yield from walk(value, described, path)
        elif path in described:
            yield ".".join(path), value, described[path]
        else:
            raise SystemExit(f"{'.'.join(path)} has no comment in values.yaml")


def comments(text):
    """The comment right above each key, by the key's path."""
    found, path, above = {}, [], []
    for line in text.splitlines():
        comment = re.match(r"\s*# (.*)", line)
        key = re.match(r"(\s*)([\w./-]+):", line)
        if comment:
            above.append(comment[1])
        elif key:
            path = [*path[: len(key[1]) // 2], key[2]]
            if above:
                found[tuple(path)] = " ".join(above).replace("|", "\\|")
            above = []
        else:
            above = []
    return found


def shown(default):
    return f"`{json.dumps(default, ensure_ascii=False)}`" if default not in ("", None) else ""


if __name__ == "__main__":
    main()
