"""`python -m tests.soak`: see tests/soak/soak.py."""

from tests.soak.soak import main

main()
