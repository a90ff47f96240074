"""Comparing runs: label subsets of the folds, nnU-Net's results paired and tested, one report."""
