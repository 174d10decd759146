"""One request from text to text: the loop to read first.

A device runs the sequence and tells, for each position, its best candidates; `sampling` decides the
token; `answer` turns ids into text and knows when to stop. This file ties them together, and knows
nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc

from gateway.answer import Answer, End
from gateway.decode import Sequence
from gateway.devices import Device
from gateway.errors import RequestError
from gateway.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    Started,
    TokenLogprobs,
    Usage,
)
from gateway.logprobs import token_logprobs
from gateway.metrics import RequestMeter
from gateway.readouts import F32, Readout
from gateway.requests import Request
from gateway.sampling import History, decide, decide_full
from gateway.tokenizer import Tokenizer
from tessera.device.v1 import device_pb2


class Generation:
    """What one request needs on its way.

    Args:
        request: a valid request for the device's model.
        device: where its sequence runs.
        tokenizer: the model's.
        meter: takes the request's times and counts.
        top_candidates: asked for with each readout; more where the request's logprobs need more.
    """

    def __init__(
        self,
        request: Request,
        device: Device,
        tokenizer: Tokenizer,
        meter: RequestMeter,
        top_candidates: int,
    ) -> None:
        self._request = request
        self._device = device
        self._tokenizer = tokenizer
        self._meter = meter
        self._top_candidates = top_candidates
        self._answer = Answer(request, tokenizer)
        self._history = History(request.prompt_ids, request.resume_ids)
        self._deadline = _loop_time(request.deadline_seconds, meter)

    async def events(self) -> AsyncGenerator[Event]:
        """Yields the events of the answer. Closing it closes the sequence on the device.

        Raises:
            RequestError: the device refused the sequence, or was lost.
        """
        request, answer = self._request, self._answer
        if answer.end is not None:  # the client has all of the answer, and missed its end
            yield self._started()
            yield self._finished(answer.end)
            return
        with self._open() as sequence:
            yield self._started()
            if request.echo and not request.resumed:
                yield Delta(self._tokenizer.decode(request.prompt_ids))
            while answer.end is None:
                for delta in await self._next_deltas(sequence):
                    yield delta
        yield self._finished(answer.end)

    def _open(self) -> Sequence:
        request = self._request
        known_ids = (*request.prompt_ids, *request.resume_ids)
        readout = device_pb2.ReadoutOptions(
            top_candidates=min(
                max(self._top_candidates, request.num_logprobs or 0),
                request.model.max_top_candidates,
            ),
            temperature=request.sampling.temperature,
        )
        sequence = self._device.open(known_ids, readout, request.priority)
        self._meter.prompt_sent(len(known_ids))
        return sequence

    async def _next_deltas(self, sequence: Sequence) -> list[Delta]:
        """What the next token lets the client see; ends the answer where the token does."""
        try:
            async with asyncio.timeout_at(self._deadline):
                token_id, logprobs = await self._next_token(sequence)
        except TimeoutError:
            return self._answer.finish(End(FinishReason.DEADLINE))
        self._meter.token()
        self._history.add(token_id)
        deltas = self._answer.push(token_id, logprobs)
        if self._answer.end is None:
            # Before anything is written: the device works on while the client reads.
            sequence.advance(token_id)
        return deltas

    async def _next_token(self, sequence: Sequence) -> tuple[int, TokenLogprobs | None]:
        """Decides from the candidates; from the full row where they leave it open."""
        readout = await sequence.readout()
        self._meter.readout(readout.queued_us, readout.device_us)
        params, position = self._request.sampling, readout.position + 1
        row = None
        token_id = decide(readout.candidates, params, position, self._history)
        if token_id is None:
            self._meter.full_row()
            row = await sequence.inspect()
            token_id = await self._decide_full(row, position)
        return token_id, self._logprobs(token_id, readout, row)

    async def _decide_full(self, row: F32, position: int) -> int:
        try:
            # Milliseconds for a large vocabulary: other answers go on meanwhile.
            return await asyncio.to_thread(
                decide_full, row, self._request.sampling, position, self._history
            )
        except ValueError as error:
            raise RequestError(
                grpc.StatusCode.INTERNAL, f"device {self._device.address}: {error}"
            ) from None

    def _logprobs(self, token_id: int, readout: Readout, row: F32 | None) -> TokenLogprobs | None:
        num_top = self._request.num_logprobs
        if num_top is None:
            return None
        return token_logprobs(
            token_id, readout.candidates, row, num_top, self._tokenizer.token_text
        )

    def _started(self) -> Started:
        request = self._request
        return Started(
            request.request_id,
            request.model.name,
            len(request.prompt_ids),
            request.sampling.seed,
        )

    def _finished(self, end: End) -> Finished:
        return Finished(
            end.reason,
            end.stop_string,
            end.stop_id,
            Usage(
                len(self._request.prompt_ids),
                len(self._answer.token_ids),
                self._meter.full_rows,
            ),
            self._meter.timings(),
        )


def _loop_time(seconds_from_arrival: float | None, meter: RequestMeter) -> float | None:
    """The event loop's time so long after the request's arrival."""
    if seconds_from_arrival is None:
        return None
    return asyncio.get_running_loop().time() + seconds_from_arrival - meter.elapsed()
