"""`voice-agent demo`: a real call to a real server, and a verdict on it.

    clip         the speech that is played, what it says, where its phrases end
    microphone   the clip as a WebRTC track, at real-time pace
    call         an aiortc peer: WebRTC, Opus, RTVI messages, the agent's voice
    verdict      whether the words and the reply came
    server       the server that is called, in a process of its own
    http         JSON requests of call and server

The caller uses nothing of the server but its URL.
"""
