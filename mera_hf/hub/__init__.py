"""The Hugging Face Hub: cards, results of the benchmark and their leaderboard."""
