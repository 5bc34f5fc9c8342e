"""What people read is in plain English: none of these words is in the pages, in help, in errors or in log lines."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each with what to write instead.
BANNED = {
    r"\banew\b": "again",
    r"\bby (?:itself|themselves)\b": "automatically, or alone",
    r"\bbesides\b": "also",
    r"\bat the (?:most|least)\b": "at most, at least",
    r"\bof then\b": "of that time",
    r"\b(?:is|are|was|were) told\b": "log, report, notify",
    r"\bwhoever\b": "the noun",
    r"\bstrangers?\b": "unauthenticated client",
    r"\bmistakes?\b": "error, problem",
    r"\bjoin strings?\b": "join token",
    r"\benroll?-tokens?\b": "join token",
    r"\benrol(?:s|ment|ments)?\b": "enroll, enrollment",
    r"\bowed\b": "pending",
    r"[«»‹›„]": "' or \"",
}

PAGES = ["*.md", "docs/*.md", "helm/*/README.md", "images/README.md"]
# Texts of programs: string literals, and the comments that become help.
SOURCES = ["agent/src", "cli/src", "control-plane/src", "domain/src", "proto/src", "telemetry/src"]
STRING = re.compile(r'"((?:[^"\\\n]|\\.|\\\n)*)"')
HELP = re.compile(r"((?:^[ \t]*///[^\n]*\n)+)(?:[ \t]*#\[(?:arg|command|clap|value|group)\b|[ \t]*(?:[A-Z]\w*)(?:\(|,| \{))", re.M)


def violations(text: str) -> list[str]:
    return [
        f"'{found.group()}' (write: {instead})"
        for banned, instead in BANNED.items()
        for found in re.finditer(banned, text, re.I)
    ]


def pages() -> list[Path]:
    found = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
    assert len(found) > 15
    return found


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, check=True, capture_output=True, text=True)
    found = [ROOT / name for name in listed.stdout.split() if name.endswith(".rs") and "tests" not in name]
    assert len(found) > 200
    return found


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_no_banned_word(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [f"{at}: {found}" for at, line in enumerate(lines, 1) for found in violations(line)] == []


def test_no_text_of_a_program_has_a_banned_word() -> None:
    found = []
    for path in sources():
        source = path.read_text().split("#[cfg(test)]\nmod tests")[0]
        shown = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("//"))
        texts = [text for text in STRING.findall(shown) if " " in text]
        if "clap" in source:
            texts += HELP.findall(source)
        found += [f"{path.relative_to(ROOT)}: {what} in: {text[:80]}" for text in texts for what in violations(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "count"),
    [("It is created anew.", 1), ("Failures are told of, besides.", 2), ("at most once a minute", 0), ("«x»", 2)],
)
def test_banned_words_are_found(text: str, count: int) -> None:
    assert len(violations(text)) == count
