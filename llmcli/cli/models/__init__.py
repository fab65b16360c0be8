"""`llmcli models`: one module per group of subcommands."""
