"""Constitutional AI as a product: a written constitution in, a model that obeys it out."""
