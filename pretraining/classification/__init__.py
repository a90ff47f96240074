"""Raw scans with labels, candidates or a model: what of classification reads scans."""
