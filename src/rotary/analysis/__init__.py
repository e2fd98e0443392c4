"""What a scheme does to each plane: diagnosis (numbers), report (text), plots (pictures; matplotlib is imported late)."""
