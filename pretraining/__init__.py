"""Everything before fine-tuning: reading raw scans, preparing them with nnU-Net, restoration pretraining."""
