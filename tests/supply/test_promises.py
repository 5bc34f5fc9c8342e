"""Every promise in docs/security.md names tests that exist.

A test is named in italics and code, as `function`, `module::function`, `module` (all its tests) or `crate::module`. A
module is a file or a folder of the source; a fuzz target is named like its file.
"""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/security.md"
CODE = ("agent", "bench", "cli", "control-plane", "domain", "proto", "telemetry", "tests", "fuzz/src", "fuzz/fuzz_targets")
RUST_TEST = re.compile(r"#\[(?:tokio::)?test(?:\([^)]*\))?\]\s*(?:#\[(?:[^\[\]]|\[[^\]]*\])*\]\s*)*(?:async )?fn (\w+)")
PYTHON_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


@functools.cache
def known():
    """The names of modules in the path of each file that has tests, and the names of those."""
    found = []
    for folder in CODE:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in (".rs", ".py") or {".venv", "node_modules", "target"} & set(path.parts):
                continue
            names = (RUST_TEST if path.suffix == ".rs" else PYTHON_TEST).findall(path.read_text())
            if names or path.parent.name == "fuzz_targets":
                modules = {part.replace("-", "_") for part in path.relative_to(ROOT).with_suffix("").parts}
                found.append((modules, set(names)))
    return found


def exists(reference):
    """Whether a reference names a test, or a module with tests."""
    *modules, last = reference.split("::")
    within = [(path, names) for path, names in known() if set(modules) <= path]
    return any(last in names or last in path for path, names in within)


def sections():
    """The page's parts by their headings."""
    parts = re.split(r"^(#+ .*)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def references(text):
    return [name for italic in re.findall(r"(?<!\*)\*([^*|\n]*`[^*|\n]*)\*(?!\*)", text) for name in re.findall(r"`([^`]+)`", italic)]


def promises():
    """Rows that say what cannot be done, and rows of what is kept how, with the line that they are in."""
    for heading, text in sections().items():
        for line in text.splitlines():
            kept = heading == "## What is worth stealing, and where it is" and line.startswith("|")
            # What is not kept safe is an admission.
            admitted = re.match(r"\|(---| what )", line) or "**not** sealed" in line
            if line.startswith("| cannot") or kept and not admitted:
                yield line


def test_every_test_that_the_page_names_exists():
    named = references(PAGE.read_text())
    assert len(named) > 40
    assert [name for name in named if not exists(name)] == []


def test_every_promise_names_a_test():
    lines = list(promises())
    assert len(lines) > 25
    assert [line for line in lines if not references(line)] == []


def test_a_name_that_is_no_test_is_noticed():
    assert exists("test_promises::test_a_name_that_is_no_test_is_noticed") and exists("test_promises")
    assert not exists("no_such_test") and not exists("test_promises::no_such_test") and not exists("nowhere::test_promises")
    assert references("keys. *`a`, agent: `b::c`* and **`bold`** and `plain`") == ["a", "b::c"]
