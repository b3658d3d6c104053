"""Voice Agent: a self-hosted Pipecat voice agent on our own streaming recogniser.

`voice_agent.engine` transcribes and knows nothing of Pipecat; `voice_agent.services` and
`voice_agent.processors` wrap it for Pipecat; `voice_agent.pipeline`, `voice_agent.server` and
`voice_agent.cli` put the agent together.
"""

__version__ = "0.1.0"
