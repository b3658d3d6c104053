"""A recogniser in a process of its own, behind the recogniser protocol.

    front-end process                       Unix socket            engine process
    EngineClient.open/feed/finish  ──► one message a flush ──►  EngineHost ──► the recogniser
    events, many streams at once   ◄── one message a tick  ◄──

    packing   both directions as bytes: audio packed by numpy, events by MessagePack
    client    the front-end's side, a `Recognizer`; stream: one of its streams
    keeping   what makes a stream outlive the engine process: its open segments, to be said again
    host      the engine's side

Nothing is imported here.
"""
