"""`voice_agent.processes.front_end` that answers the soak."""

from tests.soak.server import answer
from voice_agent.processes.front_end import main

if __name__ == "__main__":
    answer()
    main()
