"""`voice_agent.processes.engine` that answers the soak."""

from tests.soak.server import answer
from voice_agent.processes.engine import main

if __name__ == "__main__":
    answer()
    main()
