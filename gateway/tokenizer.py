"""Text to ids and back, by a checkpoint's own tokenizer and chat template.

Knows the checkpoint's tokenizer files; knows nothing of requests, devices or sampling. Text that
comes from outside never becomes a control token: only the chat template writes those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.chat_template import ROLES, ChatMessage, ChatTemplateError
from gateway.detokenizer import Detokenizer, TokenTexts
from gateway.generation_config import GenerationDefaults
from gateway.piece import Piece
from gateway.tokenizer_files import TokenizerError, TokenizerFiles, read_tokenizer_files

__all__ = [
    "ROLES",
    "ChatMessage",
    "ChatTemplateError",
    "Detokenizer",
    "GenerationDefaults",
    "Piece",
    "Tokenizer",
    "TokenizerError",
]


class Tokenizer:
    """A checkpoint's tokenizer, chat template and generation defaults. Safe to share between tasks.

    Attributes:
        digest: SHA-256 (hex) of tokenizer.json, as devices tell it.
        vocab_size: ids that have a text. A model's vocabulary may be a little smaller (Gemma 3 has
            an image token that its text models have no logit for) or larger (padding).
        bos_token_id: what opens a sequence; None where the checkpoint names none.
        control_token_ids: ids that text never becomes and that show nothing.
        defaults: sampling parameters that a request leaves out.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self._backend = files.backend
        self._chat_template = files.chat_template
        self._control_ids = files.control_tokens
        self.digest = files.digest
        self.vocab_size = files.vocab_size
        self.bos_token_id = files.bos_token_id
        self.control_token_ids = frozenset(files.control_tokens.values())
        self.defaults = files.defaults
        self._texts = TokenTexts(
            files.vocab_size, files.byte_ids, self.control_token_ids, self.token_text
        )

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """Loads a checkpoint directory's tokenizer.json and what lies beside it.

        Raises:
            TokenizerError: a file is missing, garbage, or of a construction that is not served.
        """
        return cls(read_tokenizer_files(path))

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` can work."""
        return self._chat_template is not None

    def encode(self, text: str, *, add_bos: bool) -> list[int]:
        """The ids of plain text. Control tokens spelled in it stay text.

        Raises:
            TokenizerError: the text has lone surrogates.
        """
        ids = self._encode_plain(text)
        return [self.bos_token_id, *ids] if add_bos and self.bos_token_id is not None else ids

    def encode_chat(self, messages: Sequence[ChatMessage], *, enable_thinking: bool) -> list[int]:
        """The ids of a conversation, up to where the model's answer begins.

        Raises:
            ChatTemplateError: there is no template, a role is unknown, or the template does not
                take the conversation.
        """
        if self._chat_template is None:
            raise ChatTemplateError(
                "messages", "the checkpoint has no chat template; send text or token ids"
            )
        ids: list[int] = []
        for part in self._chat_template.render(messages, enable_thinking=enable_thinking):
            if isinstance(part, str):
                ids += self._encode_plain(part)
            else:
                ids.append(self._control_ids[part.spelling])
        return ids

    def decode(self, token_ids: Sequence[int], *, show_control_tokens: bool = False) -> str:
        """The text of ids. Bytes that are not valid UTF-8 show as U+FFFD.

        Control tokens are left out unless they are asked for by name. Tokens that are only reserved
        (`<unused7>`) are shown.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        if token_ids and max(token_ids) >= self.vocab_size:
            unknown = next(i for i in token_ids if i >= self.vocab_size)
            raise TokenizerError(
                f"token id must be below {self.vocab_size} (vocab_size), not {unknown}"
            )
        return self._backend.decode(token_ids, skip_special_tokens=not show_control_tokens)

    def token_text(self, token_id: int) -> str:
        """What the id alone decodes to.

        Control tokens show by name, parts of a character as U+FFFD, ids without a text as nothing.
        """
        return self._backend.decode((token_id,), skip_special_tokens=False)

    def detokenizer(self) -> Detokenizer:
        """A new answer's text."""
        return Detokenizer(self._texts)

    def _encode_plain(self, text: str) -> list[int]:
        try:
            ids = self._backend.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):
            raise TokenizerError("text must be valid Unicode: no lone surrogates") from None
        assert self.control_token_ids.isdisjoint(ids), "text has become a control token"
        return ids
