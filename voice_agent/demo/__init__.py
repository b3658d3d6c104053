"""`voice-agent demo`: a real call to a real server, and a verdict on it.

    clip       the speech that is played, what it says, where its phrases end
    call       an aiortc peer: WebRTC, Opus, the clip at real-time pace, RTVI messages
    verdict    whether the words and the reply came
    server     the server that is called, in a process of its own

The caller uses nothing of the server but its URL.
"""
