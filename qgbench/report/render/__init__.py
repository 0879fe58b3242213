"""Chapters as a document: Markdown, LaTeX."""
