"""`ssast-edge listen` as a systemd service: its unit, its installation, what it says of itself."""
