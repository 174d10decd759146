"""`tessera chat`: a conversation in the terminal.

Knows keys and turns; knows nothing of gRPC.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing

from gateway.cli_output import show_error, show_failure, write
from gateway.client import Chat, Client, GatewayError, Message, Options
from gateway.events import Delta

try:
    import readline  # lines can be edited, and called back with the arrow keys
except ImportError:  # some systems have none
    readline = None

PROMPT = "> "
HELP = "Ctrl-C stops an answer. /new starts over. Ctrl-D, or Ctrl-C at the prompt, leaves."


class Conversation:
    """The turns so far.

    Args:
        client: where answers come from.
        system: what comes before all turns; None for nothing.
        enable_thinking: lets the model think first.
        options: of every request.
    """

    def __init__(
        self, client: Client, system: str | None, enable_thinking: bool, options: Options
    ) -> None:
        self._client = client
        self._opening = [] if system is None else [Message("system", system)]
        self._messages = list(self._opening)
        self._enable_thinking = enable_thinking
        self._options = options

    def start_over(self) -> None:
        """Forgets all turns."""
        self._messages = list(self._opening)

    def ask(self, question: str) -> None:
        """Streams the answer to the terminal; Ctrl-C stops it, and keeps what there is.

        Raises:
            GatewayError: there is no answer; the turn is forgotten.
        """
        messages = [*self._messages, Message("user", question)]
        chat = Chat(tuple(messages), self._enable_thinking)
        answer = ""
        try:
            with closing(self._client.generate(chat, **self._options)) as events:
                for event in events:
                    if isinstance(event, Delta):
                        write(event.text)
                        answer += event.text
        except KeyboardInterrupt:
            write("\n[stopped]")
        write("\n")
        self._messages = [*messages, Message("assistant", answer)]


def chat(
    client: Client,
    *,
    system: str | None,
    enable_thinking: bool,
    options: Options,
    read_line: Callable[[str], str] = input,
) -> int:
    """Takes turns until the user leaves; returns the exit code.

    Raises:
        GatewayError: the model can't be asked for.
    """
    # A script's background job begins with Ctrl-C ignored; here it is how an answer stops.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = client.model()
    if not model.chat:
        show_error(f"{model.name} has no chat template: use `tessera generate`")
        return 1
    print(f"{model.name} ({model.backend}, {model.precision}) at {client.server}. {HELP}")
    conversation = Conversation(client, system, enable_thinking, options)
    while True:
        try:
            line = read_line(PROMPT).strip()
        except EOFError:
            write("\n")
            return 0
        except KeyboardInterrupt:
            write("\n")
            if _line_buffer():
                continue  # as in a shell: only the line is given up
            return 0
        if line == "/new":
            conversation.start_over()
        elif line:
            try:
                conversation.ask(line)
            except GatewayError as error:
                show_failure(error, client.server)


def _line_buffer() -> str:
    """What stands in the line that is being edited."""
    return readline.get_line_buffer() if readline is not None and sys.stdin.isatty() else ""
