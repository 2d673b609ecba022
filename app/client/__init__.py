"""The client library at the path of the server's package. The code and the documentation are in `streaming_inference`."""

from streaming_inference import *  # noqa: F403
from streaming_inference import __all__ as __all__
