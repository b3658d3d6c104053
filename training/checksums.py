"""Write `voice_agent/models/SHA256SUMS` for the files that the package embeds.

python -m training.checksums
"""

from __future__ import annotations

import hashlib

from voice_agent.models import HERE, SUMS

DATA = {".nemo", ".onnx", ".ts", ".json", ".npz", ".pt", ".data"}


def main() -> None:
    """Hash every model file, in a stable order."""
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.suffix in DATA)
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n"
        for p in files
    ]
    SUMS.write_text("".join(lines))
    print(f"{SUMS}: {len(lines)} files")


if __name__ == "__main__":
    main()
