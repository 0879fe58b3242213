"""What every room needs: errors, logs, progress, files, text."""
