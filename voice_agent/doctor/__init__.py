"""`voice-agent doctor`: what will work on this machine, what will not, and what mends it.

machine   `Machine`: the facts, plain data
look      finds the facts on this machine
checks    a fact or two to a `Finding`; pure functions, one a problem
command   runs them and prints; the exit code says whether the profile can run
"""

from voice_agent.doctor.checks import examine
from voice_agent.doctor.finding import CHECKS, Finding
from voice_agent.doctor.machine import Gpu, Machine, Torch

__all__ = ["CHECKS", "Finding", "Gpu", "Machine", "Torch", "examine"]
