"""Part two of the method: a judge's preferences between the model's own responses teach it."""
