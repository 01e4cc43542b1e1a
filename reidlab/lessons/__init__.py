"""What the lessons need around them: checks, set-up, the strict runner, pages; nothing that they teach."""
