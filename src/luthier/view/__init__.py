"""What a study looks like: figures (numbers first, ink second), the report, the story in words, the live console."""
