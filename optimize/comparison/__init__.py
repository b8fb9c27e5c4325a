"""Models side by side: accuracy, tracks, latency; tables, pictures and the report."""
