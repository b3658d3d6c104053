"""`examples/transcribe_file.py`, as somebody would run it."""

import subprocess
import sys

import numpy as np
import soundfile


def test_the_example_prints_words_with_their_times(checkpoint, tmp_path):
    soundfile.write(tmp_path / "n.flac", np.random.default_rng(0).normal(0, 0.2, 44100 * 3), 44100)
    command = [sys.executable, "examples/transcribe_file.py", str(tmp_path / "n.flac"), checkpoint]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    partials = [line for line in ran.stdout.splitlines() if line.startswith("... ")]
    text, *words = ran.stdout.splitlines()[len(partials) :]
    assert partials and text
    assert [line.split()[-1] for line in words] == text.split()
    starts = [float(line.split()[0]) for line in words]
    assert starts == sorted(starts) and 0 <= starts[0] and starts[-1] <= 3.0
