"""Five minutes of the campaign with a fixed seed: all kinds of load, all that can be done to the server, and no stream shows it.

What is asserted is what the streams say, never how fast they were. On a busy machine it takes longer, because each thing is done
when the server has recovered from the one before, and everything is done once. Only deployments, which take as long as all the
rest, are left to `test_drain.py`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys

import tests.fakes.quiet_ray  # noqa: F401
from tests.campaign.campaign import Campaign, world
from tests.campaign.plan import PROTOCOLS, ROUND

SEED = 10
DONE = [kind for kind in ROUND if kind != "redeploy all"]
DURATION_S = 300.0
STREAMS = 8
HANG_S = 1800.0
"""After so long the test is thought to hang: instead of `faulthandler_timeout`, which is meant for shorter ones."""


def test_no_stream_shows_what_is_done_to_the_server() -> None:
    assert sys.__stderr__ is not None
    faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__.fileno())
    with world("redis", "float32") as started:
        campaign = Campaign(started, SEED, duration_s=DURATION_S, streams=STREAMS, done=DONE)
        report = asyncio.run(campaign.run())
    print(report.table())
    assert not report.violations
    assert not report.left
    assert set(report.streams) == set(PROTOCOLS)
    assert {event.kind for event in report.events} == set(DONE)
    assert any("made" in effect for effect in report.edits)
    assert any(met.event.kind != "nothing" for met in report.met)
