"""Dialogue <-> ids: one way for training and generation.

ids = prompt, with the generation prompt + response + terminator. Everything that trains, generates
or scores goes through `Encoder`, so what a model is taught is what it is later asked for.
"""

from charter.encoding.encoder import Encoder, Example

__all__ = ["Encoder", "Example"]
