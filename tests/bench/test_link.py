"""What a chunk costs the engine process: measured over processes of its own."""

from __future__ import annotations

import json

from voice_agent.bench import link


def test_a_row_tells_what_front_ends_fed_through_shared_memory(capsys):
    link.main(["--clients", "4", "--front-ends", "2", "--seconds", "1", "--settle", "0.3",
               "--step-ms", "1", "--ways", "rings", "--json"])  # fmt: skip
    row = json.loads(capsys.readouterr().out)
    assert row["way"] == "rings" and row["clients"] == 4
    assert row["chunks"] > 0 and row["us_a_chunk"] > row["engine_us"] > 0
