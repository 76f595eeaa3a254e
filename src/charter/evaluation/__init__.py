"""Did it work? Answers of several models to held-out prompts, graded side by side."""
