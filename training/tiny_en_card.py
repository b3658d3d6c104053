"""Measures tiny-en on human speech and writes the table into its model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from voice_agent.bench.wer import Row, run

CARD = Path("voice_agent/models/tiny-en.md")
_TABLE = re.compile(r"(<!-- wer -->\n).*?(<!-- /wer -->)", re.DOTALL)


def evaluate(model: Path, manifest: Path, out: Path, card: Path = CARD) -> None:
    """Measure every right context and the second passes, and update the card.

    Args:
        model: the `.nemo` file.
        manifest: JSON lines of human clips (`voice-agent bench wer --help`).
        out: where the rows go as JSON.
        card: markdown with a place for the table, between `<!-- wer -->` and `<!-- /wer -->`.

    Raises:
        ValueError: the card has no such place.
    """
    rows = run(manifest, str(model), "cpu", None, True, "en", True, out, search=True)
    text = card.read_text()
    if not _TABLE.search(text):
        raise ValueError(f"{card} has no place for the table: <!-- wer --> ... <!-- /wer -->")
    card.write_text(_TABLE.sub(lambda m: m[1] + table(rows) + m[2], text))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row for each source of clips, a column for each right context and final pass."""
    modes = list(dict.fromkeys((r.right_context, r.final_pass) for r in rows))
    names = [
        f"right {right}" + (f", {final}" if final != "stream" else "") for right, final in modes
    ]
    lines = [f"| clips | words | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for source in dict.fromkeys(r.source for r in rows):
        found = {(r.right_context, r.final_pass): r for r in rows if r.source == source}
        rates = [
            f"{100 * r.wer:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]"
            for r in (found[mode] for mode in modes)
        ]
        first = found[modes[0]]
        lines.append(f"| {source} ({first.clips}) | {first.words} | {' | '.join(rates)} |")
    return "\n".join(lines) + "\n"
