"""How much mail a destination gets at once, how fast, and when again (docs/adr/0014)."""
