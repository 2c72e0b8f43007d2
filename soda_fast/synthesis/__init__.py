"""Pictures from a trained model: what each task shows, and how all processes make them together."""
