"""The page of a run: its curves, completions, gains and flags in one HTML file that needs no network."""
