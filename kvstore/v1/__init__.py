"""Generated stubs of proto/kvstore/v1; never edited by hand (see tests/regenerate_stubs.py)."""
