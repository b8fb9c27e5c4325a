"""SSAST training: model, data, augmentation, fine-tuning and export. Run as `python -m train`."""
