"""Sandbox: run untrusted Python programs in jails.

A jail is a child process (Linux) with its own namespaces, no privileges, a system call filter and resource
limits. This package imports nothing of the project but itself.

Reading order, outside the jail: `sandbox` (the entry points), `supervisor` (starts child processes, captures
their output, ends them), `outcome` (exit codes and output -> a status with a reason). Inside the jail:
`start` (builds the jail, in order), `namespaces`, `mounts`, `landlock`, `seccomp` with its table `syscalls`,
`kernel` (libc calls), and for functions with tests `serve` and `wire` (the protocol between two jails).
"""
