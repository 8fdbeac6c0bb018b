"""How good a model is: what it says, measured, and what it writes, run behind walls."""
