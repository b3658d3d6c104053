"""`python -m voice_agent.bench`: the benchmarks alone, where the server's packages are missing."""

from voice_agent.bench.app import app

app(prog_name="voice-agent bench")
