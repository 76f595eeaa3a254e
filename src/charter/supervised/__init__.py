"""Part one of the method: the model criticises and revises itself, and learns from it."""
