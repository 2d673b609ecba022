"""What a response reads: frames in order, taken by whoever has room for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from app.errors import draining
from app.wakeup import Wakeup

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from app.schema.frames import Frame


class FrameSource(ABC):
    """The frames of one answer. `on_ready` is called, synchronously, whenever there may be something new to take.

    `stream_id` is the stream that it reads, or the first of several. `ended`: the terminal frame was taken. `cut`: nothing more
    comes from this process, though there has been no terminal frame. The connection must not look as if there had, so that the
    client resumes elsewhere.
    """

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.ended = False
        self.cut = False
        self.on_ready: Callable[[], None] | None = None

    @abstractmethod
    def take(self) -> list[Frame]:
        """The frames that became ready since the last call; the terminal frame once."""

    @abstractmethod
    def piece_lengths(self, index: int, begin: int, end: int) -> list[int]:
        """How many characters each of the tokens from `begin` to before `end` of choice `index` released."""

    @abstractmethod
    def close(self) -> None:
        """Takes nothing more. The `on_disconnect` of a stream decides what becomes of it when this was its last reader."""

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The frames from here to the terminal one, as they come. Closes the source at the end, also under cancellation.

        Raises `Draining` when it is cut off.
        """
        ready = self.on_ready = Wakeup()
        with self:
            while not self.ended:
                taken = self.take()
                for frame in taken:
                    yield frame
                if self.cut:
                    raise draining()
                if not taken:
                    await ready.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
