"""What the text of an answer must be: a schema or a grammar, as the request gave it.

It is data of the request: it goes with the job and is stored with the stream. What may come next is a pure function of it and of
the tokens so far, so that a stream goes on from another engine as if nothing had happened.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ConstraintKind = Literal["json_schema", "regex", "lark"]


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is a JSON schema as JSON, a regular expression, or a grammar in llguidance's dialect of Lark.

    The answer as a whole must match it. With `starts_after` it begins after the first place where these tokens stand in the
    answer in a row, such as the end of a model's reasoning; up to there nothing is constrained. `param` is the field of the
    request that errors name.
    """

    kind: ConstraintKind
    text: str
    starts_after: tuple[int, ...] = ()
    param: str = "response_format"
