"""The server: WebRTC offers, the agent's websocket, a page, transcription, health.

    serve      address, model, signals, exit code: what `voice-agent serve` runs
    listening  its address, options, event loop and signals; processes beside it use them, too
    watch      a recogniser that dies, hangs or sticks ends the process
    app        the FastAPI app and its routes
    webrtc     offers and ICE candidates
    health     /healthz, /readyz, and what those are told who are turned away
    transcription_app    the same without an agent, and without Pipecat
    page       Pipecat's prebuilt page, whose microphone is ours (microphone.js)
    calls      one conversation over one transport
    door       who may talk to the agent
    sessions   admission, tracking, draining
    agent      what they share: settings, recogniser, sessions
    banner     the lines that a start prints

Transcription without an agent, each protocol a small module over one session:

    listen, realtime      Deepgram's and OpenAI's streaming protocols, without a socket
    socketless            what those two have in common
    listen_ws, realtime_ws, files    their routes, and OpenAI's for recordings
    transcription         the session behind them: bytes in, segments of text out
    cutter, decoding      what it is made of
    stream_call, serial   its websocket, its threads; replay: what a resumed one missed
    silence               how long a websocket may say nothing
    loop_pool             no threads, for sessions whose recogniser is in another process
    api                   what the routes share: admission, limits, counts
    access, keys          who may come in
    metrics, call_metrics, tracing   what /metrics says, of calls too; OpenTelemetry

Nothing is imported here, so that `voice_agent.server.errors` costs nothing.
"""
