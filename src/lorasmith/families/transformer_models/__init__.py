"""What the families with a transformer and a T5 text encoder have in common. It is no family itself."""
