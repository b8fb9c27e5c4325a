"""The commands of `ssast-edge`, one module each. Only these print."""
