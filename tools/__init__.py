"""Programs for those who work on llmcli; nothing of it is installed."""
