"""These tests run on the functional simulator, in the tests' own process."""

from kernels import runtime

runtime.choose("sim")
