"""A conversation without a terminal: messages, templates, configuration, and one call that answers."""
