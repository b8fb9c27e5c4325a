"""Bundles that hold a model in several flavours."""
