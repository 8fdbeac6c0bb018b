"""Adapters: small trees of parameters over a frozen, perhaps quantised, base."""
