"""Records and leaderboards of runs, submissions, metrics and analysis."""
