"""Triggers solved from a recording of the user's own room: what fires there, and how often."""
