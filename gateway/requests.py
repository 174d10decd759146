"""A `GenerateRequest`, checked against the contract's limits and the model's.

Knows the messages, the limits and the tokenizer; knows nothing of streams or of generation.
Every refusal names the field, the value and the limit.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from gateway.devices import ServedModel
from gateway.errors import RequestError, invalid, shown
from gateway.parameters import read_sampling
from gateway.sampling import SamplingParams
from gateway.stops import MAX_STOP_STRINGS, InvalidStop, check_stop_strings
from gateway.tokenizer import ChatMessage, ChatTemplateError, Tokenizer
from tessera.gateway.v1 import gateway_pb2 as pb

MAX_REQUEST_ID_CHARACTERS = 128
MAX_PRIORITY = 100
MAX_STOP_IDS = 128
MAX_LOGPROBS = 64


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be served."""

    request_id: str
    model: ServedModel
    prompt_ids: tuple[int, ...]
    resume_ids: tuple[int, ...]
    """Ids of the answer that the client has already."""
    resumed: bool
    """Whether this goes on with an answer, perhaps from its very beginning."""
    sampling: SamplingParams
    max_tokens: int
    stop_strings: tuple[str, ...]
    stop_ids: frozenset[int]
    """The checkpoint's included, unless ignored."""
    deadline_seconds: float | None
    """From the request's arrival."""
    num_logprobs: int | None
    """None: no logprobs; 0: only the chosen token's."""
    with_token_ids: bool
    echo: bool
    priority: int


def read_request(request: pb.GenerateRequest, model: ServedModel, tokenizer: Tokenizer) -> Request:
    """The request with every default filled in.

    Raises:
        RequestError: it breaks the contract, or a limit of the model.
    """
    if request.model not in ("", model.name):
        raise RequestError(
            grpc.StatusCode.NOT_FOUND,
            f"model: {shown(request.model)} is not served here; {model.name!r} is",
            field="model",
        )
    if not -MAX_PRIORITY <= request.priority <= MAX_PRIORITY:
        raise invalid(
            "priority", f"must be -{MAX_PRIORITY} to {MAX_PRIORITY}, not {request.priority}"
        )
    request_id = _read_request_id(request.request_id)
    prompt_ids = _read_prompt(request, model, tokenizer)
    max_tokens = _read_max_tokens(request.limits, len(prompt_ids), model)
    resume_ids = tuple(request.resume.token_ids)
    check_ids("resume.token_ids", resume_ids, model.vocab_size)
    if len(resume_ids) > max_tokens:
        raise invalid(
            "resume.token_ids",
            f"has {len(resume_ids):,} ids; the whole answer may have {max_tokens:,}",
        )
    stop_ids = _read_stop_ids(request.limits, model)
    return Request(
        request_id=request_id,
        model=model,
        prompt_ids=prompt_ids,
        resume_ids=resume_ids,
        resumed=request.HasField("resume"),
        sampling=read_sampling(request.sampling, model.vocab_size, tokenizer.defaults),
        max_tokens=max_tokens,
        stop_strings=_read_stop_strings(request.limits),
        stop_ids=stop_ids,
        deadline_seconds=_read_deadline(request.limits),
        num_logprobs=_read_logprobs(request.output, model),
        with_token_ids=request.output.token_ids,
        echo=request.output.echo,
        priority=request.priority,
    )


def read_text(request: pb.TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    """The ids of what `Tokenize` is asked for.

    Raises:
        RequestError: nothing is asked for, or the conversation can't be laid out.
    """
    match request.WhichOneof("input"):
        case "text":
            return tokenizer.encode(request.text, add_bos=request.add_bos)
        case "chat":
            return encode_chat(request.chat, tokenizer)
        case None:
            raise invalid("input", "one of text and chat must be set")


def read_token_ids(request: pb.DetokenizeRequest, tokenizer: Tokenizer) -> str:
    """The text of what `Detokenize` is asked for.

    Raises:
        RequestError: the vocabulary lacks an id.
    """
    check_ids("token_ids", request.token_ids, tokenizer.vocab_size)
    return tokenizer.decode(request.token_ids, show_control_tokens=request.show_control_tokens)


def encode_chat(chat: pb.Chat, tokenizer: Tokenizer) -> list[int]:
    """The ids of a conversation, laid out by the chat template.

    Raises:
        RequestError: there are no messages, a role is unknown, there is no template, or it does not
            take this conversation.
    """
    if not chat.messages:
        raise invalid("chat.messages", "has 0 messages; at least 1 is needed")
    messages = [ChatMessage(message.role, message.content) for message in chat.messages]
    try:
        return tokenizer.encode_chat(messages, enable_thinking=chat.enable_thinking)
    except ChatTemplateError as error:
        raise invalid(f"chat.{error.field}", error.problem) from None


def check_ids(field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Raises RequestError at the first id that the vocabulary lacks."""
    if token_ids and max(token_ids) >= vocab_size:
        for index, token_id in enumerate(token_ids):
            if token_id >= vocab_size:
                raise invalid(
                    f"{field}[{index}]", f"must be below {vocab_size} (vocab_size), not {token_id}"
                )


def _read_request_id(request_id: str) -> str:
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise invalid(
            "request_id",
            f"must have at most {MAX_REQUEST_ID_CHARACTERS} characters, not {len(request_id):,}",
        )
    if not (request_id.isascii() and request_id.isprintable()):
        raise invalid("request_id", f"must be printable ASCII, not {shown(request_id)}")
    return request_id or secrets.token_hex(8)


def _read_prompt(
    request: pb.GenerateRequest, model: ServedModel, tokenizer: Tokenizer
) -> tuple[int, ...]:
    match request.WhichOneof("prompt"):
        case "text":
            field = "text"
            if not request.text:
                raise invalid("text", "must not be empty")
            ids = tokenizer.encode(request.text, add_bos=True)
        case "chat":
            field = "chat"
            ids = encode_chat(request.chat, tokenizer)
        case "token_ids":
            field = "token_ids.ids"
            ids = request.token_ids.ids
            if not ids:
                raise invalid(field, "has 0 ids; at least 1 is needed")
            check_ids(field, ids, model.vocab_size)
        case None:
            raise invalid("prompt", "one of text, chat and token_ids must be set")
    if len(ids) >= model.context_length:
        raise invalid(
            field,
            f"the prompt has {len(ids):,} tokens; it must leave room for an answer in the context "
            f"of {model.context_length:,}",
        )
    return tuple(ids)


def _read_max_tokens(limits: pb.Limits, num_prompt_ids: int, model: ServedModel) -> int:
    room = model.context_length - num_prompt_ids
    if not limits.HasField("max_tokens"):
        return room
    if not 1 <= limits.max_tokens <= room:
        raise invalid(
            "limits.max_tokens",
            f"must be 1 to {room:,}, what a prompt of {num_prompt_ids:,} tokens leaves of the "
            f"context of {model.context_length:,}; not {limits.max_tokens:,}",
        )
    return limits.max_tokens


def _read_stop_strings(limits: pb.Limits) -> tuple[str, ...]:
    try:
        check_stop_strings(limits.stop)
    except InvalidStop as error:
        if error.index is None:
            raise invalid(
                "limits.stop", f"has {error.value:,} strings; at most {MAX_STOP_STRINGS} may be"
            ) from None
        raise invalid(
            f"limits.stop[{error.index}]", f"must have {error.limit}, not {error.value:,}"
        ) from None
    return tuple(limits.stop)


def _read_stop_ids(limits: pb.Limits, model: ServedModel) -> frozenset[int]:
    if len(limits.stop_ids) > MAX_STOP_IDS:
        raise invalid(
            "limits.stop_ids", f"has {len(limits.stop_ids):,} ids; at most {MAX_STOP_IDS} may be"
        )
    check_ids("limits.stop_ids", limits.stop_ids, model.vocab_size)
    return frozenset(limits.stop_ids).union(() if limits.ignore_eos else model.eos_token_ids)


def _read_deadline(limits: pb.Limits) -> float | None:
    if not limits.HasField("deadline"):
        return None
    seconds = limits.deadline.seconds + limits.deadline.nanos / 1e9
    if seconds <= 0:
        raise invalid("limits.deadline", f"must be above 0 s, not {seconds:g} s")
    return seconds


def _read_logprobs(output: pb.Output, model: ServedModel) -> int | None:
    if not output.HasField("logprobs"):
        return None
    limit = min(MAX_LOGPROBS, model.max_top_candidates, model.vocab_size)
    if output.logprobs > limit:
        raise invalid("output.logprobs", f"must be at most {limit}, not {output.logprobs}")
    return output.logprobs
