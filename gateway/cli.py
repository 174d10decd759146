"""The `tessera` command: generate, chat, tokenize, models.

Knows flags and exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 no gateway there, 130
stopped by Ctrl-C. The work is the client's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NoReturn, cast

from google.protobuf.json_format import MessageToDict

from gateway.cli_chat import chat
from gateway.cli_output import show_error, show_failure, show_json, show_text, write, write_json
from gateway.client import Chat, Client, GatewayError, Message, Options
from gateway.settings import SettingsError, address, load_client_settings

USAGE_ERROR = 2
INTERRUPTED = 130


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        settings = load_client_settings()
    except SettingsError as error:
        show_error(error)
        return USAGE_ERROR
    arguments = _parser(settings.server).parse_args()
    run: Callable[[Client, argparse.Namespace], int] = arguments.run
    try:
        with Client(arguments.server) as client:
            return run(client, arguments)
    except GatewayError as error:
        return show_failure(error, arguments.server)
    except UnicodeError:
        show_error("the text is not valid UTF-8")
        return USAGE_ERROR
    except KeyboardInterrupt:
        write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us (head) has enough. Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _generate(client: Client, arguments: argparse.Namespace) -> int:
    text = _text(arguments.prompt)
    prompt = text
    if arguments.chat:
        prompt = Chat((*_system(arguments), Message("user", text)), enable_thinking=arguments.think)
    with closing(client.generate(prompt, **_options(arguments))) as events:
        if arguments.json:
            show_json(events)
        else:
            show_text(events, stats=arguments.stats)
    return 0


def _chat(client: Client, arguments: argparse.Namespace) -> int:
    return chat(
        client,
        system=arguments.system,
        enable_thinking=arguments.think,
        options=_options(arguments),
    )


def _tokenize(client: Client, arguments: argparse.Namespace) -> int:
    text = _text(arguments.prompt)
    prompt = Chat((Message("user", text),)) if arguments.chat else text
    ids = client.tokenize(prompt, add_bos=arguments.bos)
    if arguments.json:
        write_json({"token_ids": ids})
    else:
        write(" ".join(map(str, ids)) + "\n")
    return 0


def _models(client: Client, arguments: argparse.Namespace) -> int:
    model = client.model()
    if arguments.json:
        write_json(
            MessageToDict(
                model, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        )
    else:
        rows = {
            "name": model.name,
            "architecture": model.architecture,
            "vocabulary": f"{model.vocab_size:,} ids",
            "context": f"{model.context_length:,} tokens",
            "chat": "yes" if model.chat else "no",
            "backend": f"{model.backend}, {model.precision}",
        }
        write("".join(f"{name:<14}{value}\n" for name, value in rows.items()))
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {message} (see {self.prog} --help)\n")


def _parser(server: str) -> argparse.ArgumentParser:
    parser = _Parser(prog="tessera", description="Text from a Tessera gateway.")
    common = _Parser(add_help=False)
    # Before the command or after it; a subparser's default would undo what came before.
    for place, default in ((parser, server), (common, argparse.SUPPRESS)):
        place.add_argument(
            "--server",
            default=default,
            type=address,
            metavar="HOST:PORT",
            help="the gateway (default: TESSERA_SERVER, else 127.0.0.1:50050)",
        )
    json_flag = _Parser(add_help=False)
    json_flag.add_argument("--json", action="store_true", help="write JSON, one object a line")
    prompt = _Parser(add_help=False)
    prompt.add_argument(
        "prompt", nargs="*", help="the text, in quotes; - or nothing reads it from standard input"
    )
    sampling = _sampling_parser()
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str,
        run: Callable[[Client, argparse.Namespace], int],
        text: str,
        *parents: _Parser,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, parents=(common, *parents), allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    generate = command(
        "generate", _generate, "Continues a text, streamed.", prompt, json_flag, sampling
    )
    generate.add_argument(
        "--chat", action="store_true", help="send the text as a user's turn of a chat"
    )
    generate.add_argument("--echo", action="store_true", help="show the prompt first")
    generate.add_argument(
        "--logprobs", type=_u32, metavar="N", help="with --json: logprobs of the N best tokens"
    )
    generate.add_argument("--stats", action="store_true", help="write counts and times to stderr")
    command("chat", _chat, "Talks with the model.", sampling)
    tokenize = command("tokenize", _tokenize, "Shows a text's token ids.", prompt, json_flag)
    tokenize.add_argument("--chat", action="store_true", help="lay it out as a user's turn")
    tokenize.add_argument("--bos", action="store_true", help="put bos in front")
    command("models", _models, "Shows the model that is served.", json_flag)
    return parser


def _sampling_parser() -> _Parser:
    parser = _Parser(add_help=False)
    group = parser.add_argument_group(
        "sampling", "What is left out is the checkpoint's default (tessera models --json)."
    )
    for flag, kind, text in (
        ("--temperature", float, "0 is greedy"),
        ("--top-k", _u32, "keep the k best tokens; 0 is off"),
        ("--top-p", float, "keep the best tokens that reach this probability"),
        ("--min-p", float, "keep tokens at least this fraction as probable as the best"),
        ("--repetition-penalty", float, "1 is off"),
        ("--presence-penalty", float, "-2 to 2"),
        ("--frequency-penalty", float, "-2 to 2"),
        ("--seed", _u64, "the same seed gives the same text"),
        ("--max-tokens", _u32, "tokens to generate at most"),
        ("--deadline-seconds", float, "end the answer after this time"),
    ):
        group.add_argument(flag, type=kind, metavar="N", help=text)
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    group.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on past the model's own end"
    )
    group.add_argument("--system", metavar="TEXT", help="a system message, for chats")
    group.add_argument("--think", action="store_true", help="let the model think first, for chats")
    return parser


def _u32(text: str) -> int:
    return _whole_number(text, 2**32 - 1)


def _u64(text: str) -> int:
    return _whole_number(text, 2**64 - 1)


def _whole_number(text: str, limit: int) -> int:
    """What the wire can hold; what the gateway takes is the gateway's to say."""
    if not (text.isascii() and text.isdigit() and int(text) <= limit):
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 to {limit}, not {text!r}")
    return int(text)


def _options(arguments: argparse.Namespace) -> Options:
    """The options that were given."""
    given: dict[str, Any] = {
        name: value
        for name, value in vars(arguments).items()
        if name in Options.__annotations__ and value is not None
    }
    return cast(Options, given)


def _system(arguments: argparse.Namespace) -> Sequence[Message]:
    return () if arguments.system is None else (Message("system", arguments.system),)


def _text(words: Sequence[str]) -> str:
    """The prompt, from the command line or from standard input."""
    if len(words) > 1:
        show_error(f"the prompt must be one argument: put it in quotes, '{' '.join(words)}'")
        sys.exit(USAGE_ERROR)
    if not words and sys.stdin.isatty():
        show_error("a prompt is missing, e.g. tessera generate 'The capital of France is'")
        sys.exit(USAGE_ERROR)
    return words[0] if words and words[0] != "-" else sys.stdin.read()


if __name__ == "__main__":
    sys.exit(main())
