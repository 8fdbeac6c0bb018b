"""Sandbox: runs programs that nobody has read, in jails. Imports nothing of the rest."""
