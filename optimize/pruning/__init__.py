"""Fewer heads, MLP units, channels and blocks: importance, selection, surgery, recovery."""
