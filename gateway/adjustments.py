"""Penalties and biases: what the ids so far and the user's wishes do to logits.

Knows counts of ids and single logits; knows nothing of rows, candidates or probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.sampling_params import SamplingParams


class History:
    """The ids of a sequence so far, as penalties see them. Adding one takes constant time.

    Attributes:
        prompt: ids that occur in the prompt.
        generated: how often each id occurs in the answer.
    """

    __slots__ = ("generated", "prompt")

    def __init__(self, prompt_ids: Iterable[int], generated_ids: Iterable[int] = ()) -> None:
        self.prompt = frozenset(prompt_ids)
        self.generated: dict[int, int] = {}
        for token_id in generated_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """The answer goes on with this id."""
        self.generated[token_id] = self.generated.get(token_id, 0) + 1


class Adjustments:
    """What one request's penalties and biases do to the logits of one position.

    Each id's function grows with its logit: bounds of logits carry over.
    """

    __slots__ = ("_bias", "_frequency", "_history", "_presence", "_repetition")

    def __init__(self, params: SamplingParams, history: History) -> None:
        self._history = history
        self._repetition = params.repetition_penalty
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self._bias = params.logit_bias

    def apply(self, token_ids: Iterable[int], logits: Iterable[float]) -> list[float]:
        """The logits of these ids after penalties and biases."""
        prompt, generated, bias = self._history.prompt, self._history.generated, self._bias
        repetition, presence, frequency = self._repetition, self._presence, self._frequency
        adjusted: list[float] = []
        for token_id, logit in zip(token_ids, logits, strict=True):
            count = generated.get(token_id, 0)
            if repetition != 1.0 and (count or token_id in prompt):
                logit = logit / repetition if logit > 0 else logit * repetition
            if count:
                logit -= presence + frequency * count
            adjusted.append(logit + bias[token_id] if token_id in bias else logit)
        return adjusted

    def max_affected(self) -> int:
        """The most ids that any adjustment can change."""
        affected = len(self._bias)
        if self._repetition != 1.0:
            affected += len(self._history.prompt) + len(self._history.generated)
        elif self._presence or self._frequency:
            affected += len(self._history.generated)
        return affected

    def affected(self) -> set[int]:
        """The ids that adjustments can change."""
        affected = set(self._bias)
        if self._repetition != 1.0:
            affected.update(self._history.prompt)
        if self._repetition != 1.0 or self._presence or self._frequency:
            affected.update(self._history.generated)
        return affected

    def raised(self) -> Iterator[int]:
        """The ids whose logits adjustments can raise; some of them twice."""
        for token_id, bias in self._bias.items():
            if bias > 0:
                yield token_id
        if self._repetition < 1.0:
            yield from self._history.prompt
        if self._repetition < 1.0 or self._presence < 0 or self._frequency < 0:
            yield from self._history.generated
