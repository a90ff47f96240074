"""Classification of scans, regions and candidates with nnU-Net's encoder, data and commands."""
