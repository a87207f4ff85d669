"""Which of Unicode's groups a character belongs to, from the CLDR's label file."""

import re
from pathlib import Path


LABELS = Path("/usr/share/unicode/cldr/common/properties/labels.txt")


def members(pattern: str) -> set[str]:
    """The single characters of a set such as '[☺😀-😆{👨‍🌾}]'; sequences in braces are left out."""
    inside = re.sub(r"\{.*?\}", "", pattern.strip()[1:-1])
    pairs = re.findall(r"(.)(?:-(.))?", inside)
    return {
        chr(code) for first, last in pairs for code in range(ord(first), ord(last or first) + 1)
    }


def read() -> dict[tuple[str, str], set[str]]:
    """Characters of each (group, subgroup), such as ('Food & Drink', 'food-fruit')."""
    groups: dict[tuple[str, str], set[str]] = {}
    for line in LABELS.read_text("utf-8").splitlines():
        parts = [part.strip() for part in line.split(";")]
        if not line.startswith("#") and len(parts) == 3:
            groups.setdefault((parts[1], parts[2]), set()).update(members(parts[0]))
    return groups
