"""The sampling defaults that a checkpoint ships in generation_config.json.

Knows the file's fields; knows nothing of requests or of tokens' text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What an absent sampling parameter means.

    As in vLLM, `do_sample` counts for nothing: a file that sets no temperature means 1, and a
    client that wants greedy says temperature 0.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end an answer; empty where the file names none."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationDefaults:
        """Reads the fields that matter; null is absent.

        Raises:
            ValueError: a field is no number, or outside of its limits.
        """
        numbers = {
            name: _number(name, values[name])
            for name in ("temperature", "top_p", "min_p", "repetition_penalty")
            if values.get(name) is not None
        }
        eos = values.get("eos_token_id")
        ids = cast(
            "list[object]", eos if isinstance(eos, list) else [eos] if eos is not None else []
        )
        top_k = _id("top_k", values.get("top_k") or 0)
        defaults = cls(
            **numbers,
            top_k=top_k,
            eos_token_ids=tuple(_id("eos_token_id", token_id) for token_id in ids),
        )
        # Refuses what no request could use. (top_k is of a vocabulary not known here.)
        SamplingParams(
            vocab_size=1,
            seed=0,
            temperature=defaults.temperature,
            top_p=defaults.top_p,
            min_p=defaults.min_p,
            repetition_penalty=defaults.repetition_penalty,
        )
        return defaults


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)


def _id(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an integer of at least 0, not {value!r}")
    return value
