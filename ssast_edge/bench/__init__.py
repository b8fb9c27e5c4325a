"""Measures bundles on this machine: latency by stage, throughput, memory, energy, over time."""
