"""Compiled leaves: byte-level work and the money gate. They import nothing of bifrost."""
