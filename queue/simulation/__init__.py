"""The simulated internet: hosts that behave as their addresses say, and a clock that people move (docs/adr/0017)."""
