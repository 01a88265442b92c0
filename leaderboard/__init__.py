"""The leaderboard: from the store to a self-contained page."""
