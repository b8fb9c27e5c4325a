"""From a trained model to the smallest and fastest that keeps its accuracy."""
