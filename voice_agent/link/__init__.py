"""A recogniser in a process of its own, behind the recogniser protocol.

    front-end process                       Unix socket            engine process
    EngineClient.open/finish       ──► one message a flush ──►  EngineHost ──► the recogniser
                 feed              ──────── shared memory ────────────────►  its streams' rings
    events, many streams at once   ◄── one message a tick  ◄──  tokens, finals

    packing   both directions as bytes: orders and tokens packed by numpy, events by MessagePack
    client    the front-end's side, a `Recognizer`; stream: one of its streams
    ways      how a stream's audio gets there: into a ring, or as orders where there are no rings
    writing   text of the tokens that come back
    keeping   what makes a stream outlive the engine process: its open segments, to be said again
    host      the engine's side; parting: when a front-end that is gone gives its slots back

Nothing is imported here.
"""
