"""The events of an answer, as the gateway makes them and as a client receives them.

Knows the messages of `Generate`'s stream; knows nothing of how an answer comes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration

from tessera.gateway.v1 import gateway_pb2 as pb


class FinishReason(Enum):
    """Why an answer ended; the value is its name in metrics and in JSON."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's natural logarithm of its probability."""

    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The chosen token of a position, and the best ones in descending order."""

    chosen: Logprob
    top: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the request was understood and its prompt sent to a device."""

    request_id: str
    model: str
    prompt_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer: its text, and the ids that spell it."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()

    @staticmethod
    def joined(deltas: Sequence[Delta]) -> Delta:
        """One delta instead of several in a row."""
        if len(deltas) == 1:
            return deltas[0]
        return Delta(
            "".join(delta.text for delta in deltas),
            tuple(token_id for delta in deltas for token_id in delta.token_ids),
            tuple(logprobs for delta in deltas for logprobs in delta.logprobs),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of one request."""

    prompt_tokens: int
    generated_tokens: int
    """A stop id and resumed ids included."""
    full_rows: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one request in seconds; None where it never came to that."""

    queued: float | None
    time_to_first_token: float | None
    total: float
    device: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    reason: FinishReason
    stop_string: str | None
    stop_id: int | None
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Delta | Finished


_REASON_NUMBERS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.DEADLINE: pb.FINISH_REASON_DEADLINE,
}
_REASONS = {number: reason for reason, number in _REASON_NUMBERS.items()}


def to_proto(event: Event, *, with_token_ids: bool) -> pb.GenerateResponse:
    """The event as a message; ids of deltas only where the client asked for them."""
    match event:
        case Delta():
            delta = pb.Delta(
                text=event.text, logprobs=[_logprobs_to_proto(each) for each in event.logprobs]
            )
            if with_token_ids:
                delta.token_ids.extend(event.token_ids)
            return pb.GenerateResponse(delta=delta)
        case Started():
            return pb.GenerateResponse(
                started=pb.Started(
                    request_id=event.request_id,
                    model=event.model,
                    prompt_tokens=event.prompt_tokens,
                    seed=event.seed,
                )
            )
        case Finished():
            return pb.GenerateResponse(finished=_finished_to_proto(event))


def from_proto(response: pb.GenerateResponse) -> Event:
    """The event of a message.

    Raises:
        ValueError: the message holds no event that this version knows.
    """
    match response.WhichOneof("event"):
        case "started":
            started = response.started
            return Started(started.request_id, started.model, started.prompt_tokens, started.seed)
        case "delta":
            return Delta(
                response.delta.text,
                tuple(response.delta.token_ids),
                tuple(_logprobs_from_proto(each) for each in response.delta.logprobs),
            )
        case "finished":
            return _finished_from_proto(response.finished)
        case None:
            raise ValueError("the gateway sent an event that this client does not know")


def _finished_to_proto(event: Finished) -> pb.Finished:
    finished = pb.Finished(
        reason=_REASON_NUMBERS[event.reason],
        usage=pb.Usage(
            prompt_tokens=event.usage.prompt_tokens,
            generated_tokens=event.usage.generated_tokens,
            full_rows=event.usage.full_rows,
        ),
        timings=pb.Timings(
            queued=_duration(event.timings.queued),
            time_to_first_token=_duration(event.timings.time_to_first_token),
            total=_duration(event.timings.total),
            device=_duration(event.timings.device),
        ),
    )
    if event.stop_string is not None:
        finished.stop_string = event.stop_string
    if event.stop_id is not None:
        finished.stop_id = event.stop_id
    return finished


def _finished_from_proto(finished: pb.Finished) -> Finished:
    if finished.reason not in _REASONS:
        raise ValueError(f"the gateway gave a reason that this client does not know: {finished}")
    stop = finished.WhichOneof("stop")
    usage, timings = finished.usage, finished.timings
    return Finished(
        _REASONS[finished.reason],
        finished.stop_string if stop == "stop_string" else None,
        finished.stop_id if stop == "stop_id" else None,
        Usage(usage.prompt_tokens, usage.generated_tokens, usage.full_rows),
        Timings(
            _seconds(timings.queued) if timings.HasField("queued") else None,
            _seconds(timings.time_to_first_token)
            if timings.HasField("time_to_first_token")
            else None,
            _seconds(timings.total),
            _seconds(timings.device),
        ),
    )


def _logprobs_to_proto(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        chosen=_logprob_to_proto(logprobs.chosen),
        top=[_logprob_to_proto(each) for each in logprobs.top],
    )


def _logprobs_from_proto(logprobs: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(
        _logprob_from_proto(logprobs.chosen),
        tuple(_logprob_from_proto(each) for each in logprobs.top),
    )


def _logprob_to_proto(logprob: Logprob) -> pb.Logprob:
    return pb.Logprob(token_id=logprob.token_id, logprob=logprob.logprob, text=logprob.text)


def _logprob_from_proto(logprob: pb.Logprob) -> Logprob:
    return Logprob(logprob.token_id, logprob.logprob, logprob.text)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
