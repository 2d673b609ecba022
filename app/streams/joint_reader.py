"""A joint reader: several streams read as one, for an answer to several prompts.

Its frames are those of one stream whose choices are the choices of all streams, one stream after another: choice `i` of stream
`p` has the index `p * n + i`, cursors name all choices, the usage is the sum. So what makes an answer of a stream makes an answer
of several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import chain

import msgspec

from app.schema.frames import Delta, End, Frame, Start, Usage
from app.streams.cursor import format_cursor
from app.streams.frame_source import FrameSource
from app.streams.reader import Reader


class JointReader(FrameSource):
    """Reads from the start what `readers` read, each of another stream; all streams have the same number of choices.

    It ends when the last stream has ended, or with the error of the first that fails. `openings` are texts, one for each stream,
    that each of its choices begins with.
    """

    def __init__(self, readers: Sequence[Reader], openings: Sequence[str] = ()) -> None:
        super().__init__(readers[0].stream.id)
        self._readers = readers
        self._openings = openings
        self._n = len(readers[0].stream.choices)
        self._cursors = [format_cursor([0] * self._n) for _ in readers]
        self._ends: dict[int, End] = {}
        self._started = False
        self._telling_soon = False
        # In the order in which they became ready.
        self._ready = dict.fromkeys(range(len(readers)))
        for number, reader in enumerate(readers):
            reader.on_ready = partial(self._note, number)

    def take(self) -> list[Frame]:
        """The frames that became ready since the last call; the terminal frame once."""
        frames: list[Frame] = []
        if self.ended or self.cut:
            return frames
        if not self._started:
            self._started = True
            frames += self._opening_frames()
        ready, self._ready = self._ready, {}
        for number in ready:
            for frame in self._readers[number].take():
                if isinstance(frame, Start):
                    continue
                self._cursors[number] = frame.cursor
                cursor = ".".join(self._cursors)
                if isinstance(frame, Delta):
                    index = number * self._n + frame.index
                    frames.append(msgspec.structs.replace(frame, cursor=cursor, index=index))
                elif not isinstance(frame, End):
                    self.ended = True
                    return [*frames, msgspec.structs.replace(frame, cursor=cursor)]
                else:
                    self._ends[number] = frame
                    if len(self._ends) == len(self._readers):
                        self.ended = True
                        frames.append(self._end(frame))
        return frames

    def close(self) -> None:
        """Closes the readers of all streams."""
        self.on_ready = None
        for reader in self._readers:
            reader.close()

    def piece_lengths(self, index: int, begin: int, end: int) -> list[int]:
        """How many characters each of the tokens from `begin` to before `end` of choice `index` released."""
        return self._readers[index // self._n].piece_lengths(index % self._n, begin, end)

    def _note(self, number: int) -> None:
        """Tells of what is ready, when all that arrived together is: it is written together."""
        self._ready[number] = None
        self.cut = self.cut or self._readers[number].cut
        if not self._telling_soon:
            self._telling_soon = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling_soon = False
        if self.on_ready is not None:
            self.on_ready()

    def _opening_frames(self) -> list[Frame]:
        starts = [reader.stream.start for reader in self._readers]
        start = msgspec.structs.replace(
            starts[0],
            prompt_tokens=sum(start.prompt_tokens for start in starts),
            deterministic=all(start.deterministic for start in starts),
        )
        openings = enumerate(text for text in self._openings for _ in range(self._n))
        return [start, *(Delta("0", index, text, 0) for index, text in openings)]

    def _end(self, last: End) -> End:
        """One frame of all ends. The timings are those of the stream that ended last."""
        ends = [self._ends[number] for number in range(len(self._readers))]
        choices = chain.from_iterable(end.choices for end in ends)
        return msgspec.structs.replace(
            last,
            cursor=".".join(self._cursors),
            choices=[msgspec.structs.replace(choice, index=index) for index, choice in enumerate(choices)],
            usage=Usage(*map(sum, zip(*(msgspec.structs.astuple(end.usage) for end in ends), strict=True))),
            text_sha256=list(chain.from_iterable(end.text_sha256 for end in ends)),
        )
