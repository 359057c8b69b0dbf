"""Token sharding of a ControlNet, split like the model it steers."""

from __future__ import annotations

from .token_sharding import TokenSharding


class ControlTokens(TokenSharding):
    """See `TokenSharding`. Its control has all tokens, the same on every rank.

    With `keeps_local` it is right at the local tokens only, and zero elsewhere: for a model that takes no others. Then
    none of it is sent.
    """

    given = ()

    @property
    def keeps_local(self) -> bool:
        """Whether the control stays local."""
        return self._context.keeps_local

    @keeps_local.setter
    def keeps_local(self, keeps: bool) -> None:
        self._context.keeps_local = keeps
