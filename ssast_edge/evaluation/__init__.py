"""How well bundles detect, as it is lived: hours of audio through the streaming runtime."""
