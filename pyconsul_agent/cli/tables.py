"""The two table layouts of the command line (docs/cli.md): columnize, and tab stops with padding."""

from __future__ import annotations

from collections.abc import Sequence


def columnize(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines: each field but a row's last is padded to its column and followed by two blanks.

    Widths count bytes and padding counts characters, as in the Go library.
    """
    cleaned = [[field.strip() for field in row] for row in rows]
    widths = [max(len(row[i].encode()) for row in cleaned if i < len(row)) for i in range(max(map(len, cleaned)))]
    return "\n".join(
        "".join(f"{field:<{widths[i]}}  " for i, field in enumerate(row[:-1])) + row[-1] for row in cleaned
    )


def tab_stops(rows: Sequence[Sequence[str]], padding: int = 6) -> str:
    """Rows as lines; every field but the last is padded to the longest of its column plus `padding`."""
    widths = [max(len(row[i]) for row in rows) + padding for i in range(len(rows[0]) - 1)]
    return "\n".join("".join(f"{row[i]:<{width}}" for i, width in enumerate(widths)) + row[-1] for row in rows)
