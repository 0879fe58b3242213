"""Statistical inference over records. Imports no torch."""
