"""Tables made from records. Imports no torch and never trains."""
