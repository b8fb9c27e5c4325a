"""Recordings for training: manifests, decoding, shards, splits of known corpora, batches."""
