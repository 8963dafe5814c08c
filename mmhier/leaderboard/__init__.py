"""Records of runs, tables of them, and submissions to servers."""
