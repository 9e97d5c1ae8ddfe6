"""Ops of the compiler, each beside the C that computes it; a file for each kind."""
