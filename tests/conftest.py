"""What tests of several folders need."""

from __future__ import annotations

import os

# Before anything imports Triton, as transformers does: our kernels run in its interpreter here.
os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker has a core, and so have the servers it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# No test asserts a duration, and a busy machine takes what time it takes.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """A `.nemo` file of the real format, small and with random weights."""
    from tests.support.checkpoints import random_nemo

    return str(random_nemo(tmp_path_factory.mktemp("checkpoint"))[1])
