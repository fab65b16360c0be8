"""The fenced code blocks of an answer."""


def code_blocks(markdown: str) -> list[str]:
    """The content of each fenced block in order, without the fences; a block that is not closed ends with the text."""
    from markdown_it import MarkdownIt

    if "```" not in markdown and "~~~" not in markdown:
        return []
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown)
    return [token.content for token in tokens if token.type == "fence"]
