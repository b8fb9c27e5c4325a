"""The steps of `python -m optimize run`, each kept by what it was made from."""
