"""The least that measuring needs of a model: batched answers and probabilities of choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from charter.records import Dialogue

_BATCH = 64


class Asked:
    """A model directory, loaded in fp32."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def answers(
        self, dialogues: Sequence[Dialogue], *, temperature: float = 0.0, limit: int = 64
    ) -> list[str]:
        """An answer to each dialogue; greedy at temperature 0."""
        order = sorted(range(len(dialogues)), key=lambda i: len(str(dialogues[i])))
        found = [""] * len(dialogues)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            inputs = self._left_padded([self._prompt(dialogues[i]) for i in rows])
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
            output = self._model.generate(
                **inputs,
                max_new_tokens=limit,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            for row, ids in zip(rows, new, strict=True):
                found[row] = self._tokenizer.decode(ids, skip_special_tokens=True)
        return found

    @torch.inference_mode()
    def choices(self, dialogues: Sequence[Dialogue], choices: Sequence[str]) -> list[list[float]]:
        """For each dialogue the probability of every choice, normalised among them."""
        ids = [self._tokenizer.encode(choice, add_special_tokens=False) for choice in choices]
        end = self._tokenizer.eos_token_id
        found: list[list[float]] = []
        for dialogue in dialogues:
            prompt = self._prompt(dialogue)
            scores = torch.stack([self._score(prompt, [*choice, end]) for choice in ids])
            found.append(scores.softmax(0).tolist())
        return found

    def _score(self, prompt: list[int], completion: list[int]) -> Tensor:
        row = torch.tensor([prompt + completion])
        logits = self._model(input_ids=row).logits[0, len(prompt) - 1 : -1]
        chosen = torch.tensor(completion)[:, None]
        return logits.log_softmax(-1).gather(1, chosen).sum()

    def _prompt(self, dialogue: Dialogue) -> list[int]:
        messages = [turn.model_dump() for turn in dialogue]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _left_padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        width, pad = max(map(len, rows)), self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}
