"""Causality: version vectors, dotted siblings, hybrid logical clocks and actor epochs. Pure: no clock, no I/O."""
