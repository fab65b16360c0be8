"""`llmcli models` and `llmcli pull`: the commands about models, one module per kind of command."""
