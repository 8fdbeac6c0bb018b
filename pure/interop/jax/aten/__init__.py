"""Operations of torch's graphs (ATen), one entry each, in jax."""

from pure.interop.jax.aten.table import TABLE, Entry, Out

__all__ = ["TABLE", "Entry", "Out"]
