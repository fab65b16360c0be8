"""Measures llmcli against the plain loop and its peers: same machine, same run, medians and ratios."""
