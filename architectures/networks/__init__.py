"""The paper's networks, one experiment a file; `registry` finds them by name."""
