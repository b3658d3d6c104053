"""The server: WebRTC offers, the agent's websocket, a page, health.

    serve      address, model, signals, exit code: what `voice-agent serve` runs
    app        the FastAPI app and its routes
    webrtc     offers and ICE candidates
    page       Pipecat's prebuilt page, whose microphone is ours (microphone.js)
    calls      one conversation over one transport
    door       who may talk to the agent
    sessions   admission, tracking, draining
    agent      what they share: settings, recogniser, sessions
    banner     the lines that a start prints

Nothing is imported here, so that `voice_agent.server.errors` costs nothing.
"""
