from __future__ import annotations

import tests.fakes.quiet_ray  # noqa: F401
