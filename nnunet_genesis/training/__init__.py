"""A run of training: what fine-tuning and pretraining share."""
