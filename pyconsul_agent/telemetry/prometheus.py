"""Prometheus's text format, with numbers as Go writes them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from pyconsul_agent.telemetry.quantiles import QUANTILES

Labels = tuple[tuple[str, str], ...]
EXPONENT_MIN, EXPONENT_END = -4, 6
"""Outside of this range Go writes an exponent."""


@dataclass(slots=True)
class Family:
    """All series of one name. `kind` is gauge, counter or summary."""

    kind: str
    help: str
    lines: list[str] = field(default_factory=list)


def plain_name(name: str) -> str:
    """A name or label with everything odd replaced by `_`. Colons stay, as Consul lets them."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_:") else "_" for c in name)
    return f"_{plain}" if plain[:1].isdigit() else plain


def value_line(name: str, labels: Labels, value: float, suffix: str = "") -> str:
    """`name{label="text"} 1`."""
    return f"{name}{suffix}{_braced(_rendered(labels))} {go_number(value)}"


def summary_lines(name: str, labels: Labels, quantiles: Sequence[float], total: float, count: int) -> list[str]:
    """The quantiles, then `_sum` and `_count`."""
    lines = []
    for quantile, value in zip(QUANTILES, quantiles, strict=True):
        braced = _braced([*_rendered(labels), f'quantile="{quantile:g}"'])
        lines.append(f"{name}{braced} {go_number(value)}")
    lines.append(value_line(name, labels, total, "_sum"))
    lines.append(value_line(name, labels, count, "_count"))
    return lines


def text(families: Iterable[tuple[str, Family]]) -> str:
    """The page. A family without series is shown as one that nothing was added to."""
    return "".join(_family(name, family) for name, family in families)


def _family(name: str, family: Family) -> str:
    lines = family.lines
    if not lines:
        nothing = [math.nan] * len(QUANTILES)
        lines = summary_lines(name, (), nothing, 0, 0) if family.kind == "summary" else [value_line(name, (), 0)]
    about = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {about}\n# TYPE {name} {family.kind}\n" + "".join(f"{line}\n" for line in lines)


def _rendered(labels: Labels) -> list[str]:
    return [f'{plain_name(label)}="{_escaped(value)}"' for label, value in labels]


def _braced(rendered: Sequence[str]) -> str:
    return f"{{{','.join(rendered)}}}" if rendered else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def go_number(value: float) -> str:
    """As Go's `strconv.FormatFloat(value, 'g', -1, 64)`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if not value:
        return "0"
    sign, digits, power = Decimal(repr(float(value))).normalize().as_tuple()
    assert isinstance(power, int)
    exponent = len(digits) + power - 1
    shown = "".join(map(str, digits))
    if EXPONENT_MIN <= exponent < EXPONENT_END:
        body = f"{Decimal((0, digits, power)):f}"
    else:
        mantissa = shown if len(shown) == 1 else f"{shown[0]}.{shown[1:]}"
        body = f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return f"-{body}" if sign else body
