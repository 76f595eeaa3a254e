"""Word vectors that the starter's embeddings begin with.

Strangers use words that the world's phrasings seldom have; words alike in meaning begin alike.
`python -m tools.starter.vectors BERT_FOLDER` writes `vectors.safetensors`: for the words and pieces
of the starter's tokenizer, what a public BERT-like encoder has for them, in fewer dimensions. Those
in the repository are from all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from tools.starter.content import load_world
from tools.starter.tokenizer import fit_tokenizer

PATH = Path(__file__).parent / "vectors.safetensors"
_DIMENSIONS = 192


def spellings(tokenizer: PreTrainedTokenizerFast, token: int) -> list[str]:
    """How an encoder's vocabulary may write this token: as a word, or as a word's later piece."""
    text = tokenizer.decode([token])
    word = text.strip().lower()
    return [word] if text.startswith(" ") else [f"##{word}", word]


def known_tokens(tokenizer: PreTrainedTokenizerFast, places: dict[str, int]) -> dict[int, int]:
    """The tokens that have a place among these words, and it."""
    found: dict[int, int] = {}
    for token in range(len(tokenizer)):
        for word in spellings(tokenizer, token):
            if word in places:
                found.setdefault(token, places[word])
    return found


def place_vectors(embeddings: Tensor, tokenizer: PreTrainedTokenizerFast, *, scale: float) -> None:
    """Sets the rows of known tokens (vocabulary x dimensions) to vectors of this deviation."""
    with safe_open(PATH, framework="pt") as file:
        words = {word: place for place, word in enumerate(file.metadata()["words"].split(" "))}
        vectors = file.get_tensor("vectors").float()
    known = known_tokens(tokenizer, words)
    with torch.no_grad():
        embeddings[list(known)] = vectors[list(known.values())] / vectors.std() * scale


def reduced(vectors: Tensor) -> Tensor:
    """The vectors (n x any) in the `_DIMENSIONS` in which they differ most."""
    centred = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:_DIMENSIONS].T


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", type=Path, help="folder of a BERT-like model")
    chosen = parser.parse_args()
    places = AutoTokenizer.from_pretrained(chosen.encoder).get_vocab()
    table = AutoModel.from_pretrained(chosen.encoder).get_input_embeddings().weight.detach()
    known = known_tokens(fit_tokenizer(load_world(), seed=1), places)
    words = {place: word for word, place in places.items()}
    kept = sorted(set(known.values()))
    vectors = reduced(table[kept].float())
    metadata = {"words": " ".join(words[place] for place in kept)}
    save_file({"vectors": vectors.half().contiguous()}, PATH, metadata=metadata)


if __name__ == "__main__":
    main()
