"""`python -m voice_agent.alternatives [FILE]`: print the table, or write it into FILE.

In a file it stands between `<!-- systems -->` and `<!-- /systems -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from voice_agent.alternatives.registry import markdown

_BETWEEN = re.compile(r"(<!-- systems -->\n).*?(<!-- /systems -->)", re.DOTALL)


def main(arguments: list[str]) -> None:
    """Print or write the table; exits with a sentence where the file has no place for it."""
    if not arguments:
        print(markdown(), end="")
        return
    file = Path(arguments[0])
    text, count = _BETWEEN.subn(lambda m: m[1] + markdown() + m[2], file.read_text())
    if count != 1:
        sys.exit(f"{file} needs one place between <!-- systems --> and <!-- /systems -->")
    file.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
