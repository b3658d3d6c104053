"""One server as several processes: one that owns the device, and some that talk to clients.

    supervisor      claims the port, starts all, watches all, starts again what has died or hangs
      engine        loads the model; `voice_agent.link.host` on a Unix socket
      front-end 0   websockets, HTTP, sessions, VAD; `voice_agent.link.client` is its recogniser
      front-end 1   ...

    supervisor, child   the parent's side; patience: how often something may die
    engine, front_end   what the children run; control: how they talk to their parent
    board               what all front-ends count together: sessions, keys, restarts
    shared              sessions, access and metrics of one front-end that hold for all
    handover            a resumed session's connection, passed on to the front-end that has it

Nothing is imported here.
"""
