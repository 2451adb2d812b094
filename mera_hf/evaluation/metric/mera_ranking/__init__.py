"""`evaluate.load("<path>/mera_ranking")`; `evaluate` reads `mera_ranking.py` alone."""
