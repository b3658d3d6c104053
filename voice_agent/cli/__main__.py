"""`python -m voice_agent.cli`: the same as `voice-agent`."""

from voice_agent.cli.app import main

main()
