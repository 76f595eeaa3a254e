"""Where text comes from: the implementations of `charter.model.Model`."""
