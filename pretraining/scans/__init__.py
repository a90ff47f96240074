"""Raw scans: find them, check their geometry before any pixel is read, read them, and find the body in them."""
