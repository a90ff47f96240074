"""Raw scans to a preprocessed, unlabelled data set, by nnU-Net's own fingerprint, planner and preprocessor."""
