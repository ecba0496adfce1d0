"""What one more drafted token is worth: the arithmetic of an `Outlook`, the same on both sides.

Drafting is a stopping problem. A token that is drafted at position i brings one token of text if
everything before it stands: with the chance S_i, the product of the chances of the tokens before it.
(If the token itself falls, the large model's stands in its place.) It costs one pass of the small
model, which could have made `floor` tokens of text if the cycle had ended at once. S_i never grows
and the cost of a pass does not fall, so looking one token ahead is optimal: go on while S_i is at
least `floor`. Where the position is known beforehand to be the large model's, its token comes free
with the check; drafting it pays only by the positions behind it, hence the factor `blind`.
"""

from __future__ import annotations

from bild_dist.messages import Outlook
from bild_dist.policy.rules import Ruler
from bild_dist.types import Source


def chance(outlook: Outlook, confidence: float, whose: Source) -> float:
    """The chance that a token of this confidence stands at a position of this owner."""
    table = outlook.soft if whose is Source.SMALL else outlook.exact
    if not table:
        return 1.0
    return table[min(int(confidence * len(table)), len(table) - 1)]


class Draughtsman:
    """Follows the tokens of one draft and says when to stop. Owned by the job that drafts."""

    __slots__ = ("_lead", "_outlook", "needed", "reach", "ruler")

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self.ruler = Ruler.of(outlook)
        """Whose the next position is."""
        self._lead = outlook.lead
        self.reach = outlook.reach
        """The chance that all tokens so far stand."""
        self.needed = not self.worth < outlook.floor
        """Whether the next token belongs to the check that is waited for."""

    def wrote(self, confidence: float) -> None:
        """Takes up a token that was drafted; `confidence` is what the ruler made of it."""
        outlook, whose = self._outlook, self.ruler.owner(confidence)
        self.ruler = self.ruler.after(whose, confidence)
        self.reach *= chance(outlook, confidence, whose)
        if not self.needed:
            self._lead -= 1
        elif self.worth < outlook.floor:
            self.needed = False

    @property
    def worth(self) -> float:
        """What the next token is worth, in tokens of text."""
        outlook = self._outlook
        known = self.ruler.run == outlook.window or outlook.alpha_fb > 1
        return self.reach * outlook.blind if known else self.reach

    @property
    def over(self) -> bool:
        """Whether the next token is not worth drafting at all."""
        return not self.needed and (self._lead <= 0 or self.worth < self._outlook.ahead)
