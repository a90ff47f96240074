"""Giving models away: for stock nnU-Net, and as a repository of a model hub."""
